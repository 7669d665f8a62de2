"""Networks: a GRU over item vectors that ends in the same space, and the candidate ranker."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SessionEncoder(nn.Module):
    """GRU4Rec (Hidasi et al. 2016) with tied item vectors: session and items share one space."""

    def __init__(self, items: int, dimension: int, dropout: float) -> None:
        super().__init__()
        self.vectors = nn.Embedding(items, dimension)
        self.gru = nn.GRU(dimension, dimension, batch_first=True)
        self.project = nn.Linear(dimension, dimension)
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(self.vectors.weight, std=dimension**-0.5)

    def forward(self, items: Tensor) -> Tensor:
        """A session vector after every item: items [B, L] → [B, L, D]."""
        return self.states(self.dropout(self.vectors(items)))

    def states(self, vectors: Tensor) -> Tensor:
        """The session vector after every item, from the items' vectors: both [B, L, D]."""
        hidden, _ = self.gru(vectors)
        out: Tensor = self.project(self.dropout(hidden))
        return out


class CandidateRanker(nn.Module):
    """A small network over candidates; what only the session says is computed once a session."""

    def __init__(self, candidate: int, session: int, hidden: int) -> None:
        super().__init__()
        self.register_buffer("candidate_mean", torch.zeros(candidate))
        self.register_buffer("candidate_scale", torch.ones(candidate))
        self.register_buffer("session_mean", torch.zeros(session))
        self.register_buffer("session_scale", torch.ones(session))
        self.of_candidate = nn.Linear(candidate, hidden)
        self.of_session = nn.Linear(session, hidden, bias=False)
        self.out = nn.Linear(hidden, 1)

    def standardise(self, candidates: Tensor, sessions: Tensor) -> None:
        """Take means and scales from training features [M, F] and [B, S]."""
        for name, values in (("candidate", candidates), ("session", sessions)):
            getattr(self, f"{name}_mean").copy_(values.mean(0))
            spread = values.std(0)
            scale = torch.where(spread > 1e-6, 1.0 / (spread + 1e-3), 0.0)  # 0: says nothing
            getattr(self, f"{name}_scale").copy_(scale)

    def forward(self, candidates: Tensor, sessions: Tensor, rows: Tensor) -> Tensor:
        """Scores [M] of candidates [M, F] in sessions [B, S]; rows [M] → session."""
        own = self.of_candidate((candidates - self.candidate_mean) * self.candidate_scale)
        known = (sessions - self.session_mean) * self.session_scale
        joined = torch.relu(own + self.of_session(known)[rows])
        out: Tensor = self.out(joined)[:, 0]
        return out

    def folded(self) -> tuple[Tensor, Tensor, Tensor]:
        """Weights of candidates [H, F], of sessions [H, S] and bias [H] for raw features."""
        candidate = self.of_candidate.weight * self.candidate_scale
        session = self.of_session.weight * self.session_scale
        away = candidate @ self.candidate_mean + session @ self.session_mean
        return candidate, session, self.of_candidate.bias - away

    def take(self, candidate: Tensor, session: Tensor, bias: Tensor) -> None:
        """Take weights for raw features, as `folded` gives them, into its own standardisation."""
        with torch.no_grad():
            for layer, raw, scale in (
                (self.of_candidate, candidate, self.candidate_scale),
                (self.of_session, session, self.session_scale),
            ):
                layer.weight.copy_(torch.where(scale > 0, raw / scale, 0.0))
            away = candidate @ self.candidate_mean + session @ self.session_mean
            self.of_candidate.bias.copy_(bias + away)

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
        hidden, _ = self.gru(self.dropout(self.vectors(items)))
        out: Tensor = self.project(self.dropout(hidden))
        return out


class LastState(nn.Module):
    """The encoder as it is served: item vectors [B, L, D] and last places [B] → [B, D]."""

    def __init__(self, encoder: SessionEncoder) -> None:
        super().__init__()
        self.gru = encoder.gru
        self.project = encoder.project

    def forward(self, vectors: Tensor, last: Tensor) -> Tensor:
        """Only the state at `last` is kept; what lies behind it is padding."""
        hidden, _ = self.gru(vectors)
        place = last.view(-1, 1, 1).expand(-1, 1, hidden.shape[2])
        out: Tensor = self.project(hidden.gather(1, place)[:, 0])
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

    def folded(self) -> CandidateRanker:
        """The same function with the candidates' standardisation inside the first layer."""
        same = CandidateRanker(
            self.of_candidate.in_features, self.of_session.in_features, self.out.in_features
        )
        same.load_state_dict(self.state_dict())
        with torch.no_grad():
            weight = self.of_candidate.weight * self.candidate_scale
            same.of_candidate.weight.copy_(weight)
            same.of_candidate.bias.copy_(self.of_candidate.bias - weight @ self.candidate_mean)
            same.candidate_mean.zero_()
            same.candidate_scale.fill_(1.0)
        return same

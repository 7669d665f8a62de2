"""Networks: session encoders over item vectors, and the candidate ranker."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SessionEncoder(nn.Module):
    """Towers over parts of the item vectors; sessions and items share one space (tied weights).

    Each tower reads its own part of every item's vector and ends in the same part, so that the
    inner product of session and item is the mean of what the towers say: an ensemble that is
    searched as one index.
    """

    def __init__(
        self, items: int, dimension: int, dropout: float, kind: str = "gru", length: int = 10
    ) -> None:
        """`kind` names the towers, joined by `+`; `dimension` is of all of them together."""
        super().__init__()
        kinds = kind.split("+")
        if dimension % len(kinds):
            raise ValueError(f"expected a dimension for {len(kinds)} equal parts; got {dimension}")
        self.kind, self.length = kind, length
        self.part = dimension // len(kinds)
        self.vectors = nn.Embedding(items, dimension)
        self.towers = nn.ModuleList(
            GruTower(self.part, dropout)
            if each == "gru"
            else TransformerTower(self.part, dropout, length)
            for each in kinds
        )
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(self.vectors.weight, std=self.part**-0.5)

    def forward(self, items: Tensor) -> Tensor:
        """A session vector after every item: items [B, L] → [B, L, D]."""
        return self.states(self.dropout(self.vectors(items)))

    def states(self, vectors: Tensor) -> Tensor:
        """The session vector after every item, from the items' vectors: both [B, L, D]."""
        parts = vectors.split(self.part, dim=2)
        said = [tower(part) for tower, part in zip(self.towers, parts, strict=True)]
        return torch.cat(said, dim=2) / len(said)

    @classmethod
    def joined(cls, encoders: list[SessionEncoder], dropout: float) -> SessionEncoder:
        """One encoder of the towers of several, which were fitted alone."""
        kind, size = "+".join(each.kind for each in encoders), encoders[0].vectors.num_embeddings
        dimension = sum(each.part for each in encoders)
        out = cls(size, dimension, dropout, kind, encoders[0].length)
        with torch.no_grad():
            out.vectors.weight.copy_(torch.cat([each.vectors.weight for each in encoders], dim=1))
        for tower, each in zip(out.towers, encoders, strict=True):
            tower.load_state_dict(each.towers[0].state_dict())
        return out


class GruTower(nn.Module):
    """GRU4Rec (Hidasi et al. 2016) with a projection back to the space of the items."""

    def __init__(self, dimension: int, dropout: float) -> None:
        super().__init__()
        self.gru = nn.GRU(dimension, dimension, batch_first=True)
        self.project = nn.Linear(dimension, dimension)
        self.dropout = nn.Dropout(dropout)

    def forward(self, vectors: Tensor) -> Tensor:
        """[B, L, D] → [B, L, D]."""
        hidden, _ = self.gru(vectors)
        out: Tensor = self.project(self.dropout(hidden))
        return out


class TransformerTower(nn.Module):
    """SASRec (Kang & McAuley 2018), one head, normalised before each step (Xiong et al. 2020)."""

    def __init__(self, dimension: int, dropout: float, length: int, blocks: int = 2) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.randn(length, dimension) * 0.02)
        self.blocks = nn.ModuleList(Block(dimension, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(dimension)
        self.project = nn.Linear(dimension, dimension)

    def forward(self, vectors: Tensor) -> Tensor:
        """[B, L, D] → [B, L, D]; L is at most the length it was made for."""
        length = vectors.shape[1]
        later = torch.triu(torch.ones(length, length, dtype=torch.bool, device=vectors.device), 1)
        state = vectors + self.places[:length]
        for block in self.blocks:
            state = block(state, later)
        out: Tensor = self.project(self.norm(state))
        return out


class Block(nn.Module):
    """Attention to what came before, then a layer at every place; both are added."""

    def __init__(self, dimension: int, dropout: float) -> None:
        super().__init__()
        self.before = nn.LayerNorm(dimension)
        self.query = nn.Linear(dimension, dimension)
        self.key = nn.Linear(dimension, dimension)
        self.value = nn.Linear(dimension, dimension)
        self.mix = nn.Linear(dimension, dimension)
        self.between = nn.LayerNorm(dimension)
        self.up = nn.Linear(dimension, 2 * dimension)
        self.down = nn.Linear(2 * dimension, dimension)
        self.dropout = nn.Dropout(dropout)

    def forward(self, state: Tensor, later: Tensor) -> Tensor:
        """[B, L, D] → [B, L, D]; `later` [L, L] is true where a place must not look."""
        said = self.before(state)
        weights = self.query(said) @ self.key(said).transpose(1, 2) / state.shape[2] ** 0.5
        found = weights.masked_fill(later, -1e9).softmax(dim=2) @ self.value(said)
        state = state + self.dropout(self.mix(found))
        inner = self.down(self.dropout(torch.relu(self.up(self.between(state)))))
        out: Tensor = state + self.dropout(inner)
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

"""How queries are laid out to attend to a prefix that all of them see."""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from pipeline.prefix.packed.call import Tensor


@dataclass(frozen=True)
class Folding:
    """Queries of `heads` heads as queries of `kv_heads` heads, dealt out to `parts`.

    Every query sees all of the prefix, so that the heads of a group can be queries of one head,
    and their tokens be dealt out to parts that are computed side by side.
    """

    parts: int
    kv_heads: int
    heads: int
    tokens: int
    dtype: torch.dtype

    @classmethod
    def of(cls, query: Tensor, kv_heads: int, parts: int, dtype: torch.dtype) -> "Folding":
        """The folding of `query` `[num_heads, tokens, size]`, computed in `dtype`."""
        return cls(parts, kv_heads, query.shape[0], query.shape[1], dtype)

    def fold(self, states: Tensor) -> Tensor:
        """`[num_heads, tokens, size]` as `[parts, num_kv_heads, queries, size]`, zeros last."""
        return self._folded(states.to(self.dtype))

    def unfold(self, folded: Tensor) -> Tensor:
        """The inverse of `fold`, `[num_heads, tokens, size]`."""
        states = folded.transpose(0, 1).flatten(1, 2)[
            :, : self.heads // self.kv_heads * self.tokens
        ]
        return states.reshape(self.heads, self.tokens, -1)

    def fold_lse(self, lse: Tensor) -> Tensor:
        """`[num_heads, tokens]` as `[parts, num_kv_heads, queries]`, float32 as they are."""
        return self._folded(lse.unsqueeze(-1)).squeeze(-1)

    def unfold_lse(self, folded: Tensor) -> Tensor:
        """The inverse of `fold_lse`."""
        return self.unfold(folded.unsqueeze(-1)).squeeze(-1)

    def keys(self, *prefix: Tensor) -> list[Tensor]:
        """Keys and values `[num_kv_heads, p, size]`, the same for each part."""
        return [t.to(self.dtype).expand(self.parts, -1, -1, -1) for t in prefix]

    def _folded(self, states: Tensor) -> Tensor:
        folded = states.reshape(self.kv_heads, -1, states.shape[-1])
        folded = F.pad(folded, (0, 0, 0, -folded.shape[1] % self.parts))
        return folded.unflatten(1, (self.parts, -1)).transpose(0, 1)

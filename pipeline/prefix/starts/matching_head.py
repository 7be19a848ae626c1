"""One key-value head of a text's cache in fewer keys and values, in closed form."""

import torch

RIDGE = 1e-3
"""What holds values near the text's own, as a share of the mean square of the kept attention."""


class HeadToMatch:
    """What one key-value head gives reference queries that have the whole text before them.

    All tensors are float64, on one device.

    Args:
        keys: `[T, head_dim]` of the text.
        values: `[T, v_dim]` of the text.
        queries: `[n, head_dim]`, times the layer's scale.
        own_mass: `[n]`, log of the sum of exponentials of the scores beside the text's.
        own_output: `[n, v_dim]`, what attention to what is beside the text gives.

    Attributes:
        shares: `[n, T]`, how much of each query's attention every token of the text gets.
    """

    def __init__(
        self,
        keys: torch.Tensor,
        values: torch.Tensor,
        queries: torch.Tensor,
        own_mass: torch.Tensor,
        own_output: torch.Tensor,
    ) -> None:
        self.keys, self.values, self._queries = keys, values, queries
        self._own_mass, self._own_output = own_mass, own_output
        self.shares, own = self._attention(keys)
        self._output = self.shares @ values + own

    def tokens(self, count: int, first: bool = False) -> torch.Tensor:
        """The `count` tokens with the largest root mean square of attention, ascending.

        With `first` the text's first token is among them, whatever attention it gets.
        """
        received = self.shares.square().mean(0)
        if first:
            received[0] = float("inf")
        # Stable, so that of equals the earlier is kept on every machine.
        return received.sort(descending=True, stable=True).indices[:count].sort().values

    def matched_values(
        self, keys: torch.Tensor, start: torch.Tensor, ridge: float = RIDGE
    ) -> torch.Tensor:
        """Values `[p, v_dim]` with which `keys` `[p, head_dim]` give what the whole text gave.

        Least squares over the queries, own tokens included: what fewer keys take less attention
        than all did is in the values. They stay near `start` `[p, v_dim]` where the queries do not
        say otherwise; where `start` gives it all already, they are `start`.
        """
        shares, own = self._attention(keys)
        missing = self._output - own - shares @ start
        n, p = shares.shape
        weight = ridge * float(shares.square().sum()) / p
        if p <= n:
            gram = shares.T @ shares
            gram.diagonal().add_(weight)
            return start + torch.cholesky_solve(shares.T @ missing, torch.linalg.cholesky(gram))
        # The same in as many unknowns as there are queries.
        gram = shares @ shares.T
        gram.diagonal().add_(weight)
        return start + shares.T @ torch.cholesky_solve(missing, torch.linalg.cholesky(gram))

    def error(self, keys: torch.Tensor, values: torch.Tensor) -> float:
        """What is missing of the outputs with these keys and values: share of their square."""
        shares, own = self._attention(keys)
        missing = self._output - own - shares @ values
        return float(missing.square().sum() / self._output.square().sum())

    def _attention(self, keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Each query's attention to keys `[n, p]`, and what its own tokens give beside `[n, v]`."""
        scores = self._queries @ keys.T
        whole = torch.logaddexp(scores.logsumexp(-1), self._own_mass)[:, None]
        return (scores - whole).exp(), (self._own_mass[:, None] - whole).exp() * self._own_output

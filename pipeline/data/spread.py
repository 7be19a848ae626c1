"""A few examples of many, spread evenly."""


def spread(total: int, most: int) -> list[int]:
    """Up to `most` of `total` places, in their order, the first among them."""
    count = min(most, total)
    return [place * total // count for place in range(count)]

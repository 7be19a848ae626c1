"""The fast way: examples in one row without padding (varlen), one prefix for all of them."""

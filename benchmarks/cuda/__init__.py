"""Whether the method is exact on a GPU, and how fast, on models of the shapes that fill one."""

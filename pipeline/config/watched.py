"""What every source of model or data has in common: something for DVC to watch."""

from pipeline.schema.section import GivenPath, Section


class Watched(Section):
    """What every source has: `path` is the file or folder that DVC watches besides this section.

    It has no default, since DVC reads params.yaml as it is. What lies elsewhere names
    `requirements.lock`: the libraries pinned there read it.
    """

    path: GivenPath

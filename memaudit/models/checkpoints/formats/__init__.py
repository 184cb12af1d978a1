"""The formats of checkpoints. None of them knows bytes, or another format.

To add a checkpoint format: one file in this folder that ends in `FORMAT = FileFormat(…)` (or
`SourceFormat(…)` if it is not one file), imported and listed here. The first format that recognizes
a file reads it.
"""

from memaudit.models.checkpoints.format import FileFormat, SourceFormat
from memaudit.models.checkpoints.formats import (
    diffusers,
    edm,
    k_diffusion,
    native,
    openai_adm,
    python_function,
    state_dict,
    unsupported,
)

FILE_FORMATS: tuple[FileFormat, ...] = (
    native.FORMAT,
    k_diffusion.FORMAT,
    edm.FORMAT,
    openai_adm.FORMAT,
    state_dict.FORMAT,
    unsupported.FORMAT,
)
SOURCE_FORMATS: tuple[SourceFormat, ...] = (
    python_function.FORMAT,
    diffusers.FORMAT,
)

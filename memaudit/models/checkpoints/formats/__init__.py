"""The formats of checkpoints. None of them knows bytes, or another format.

To add a checkpoint format: one file in this folder that ends in `FORMAT = FileFormat(…)` (or
`SourceFormat(…)` if it is not one file), imported and listed here. The first format that recognizes
a file reads it.

`recognizes(contents)` looks at what the container decoded; `read(contents, given)` returns the
configuration of a network that `build_network` knows, and its weights by our networks' names. What
files may not show, such as the number of attention heads, a format declares:

    OPTIONS = (ArchOption("num_heads", "its number of attention heads", VALUES["num_heads"], 4),)
    FAMILIES = {"torchcfm": {"num_heads": 4, "img_resolution": 32}}
    FORMAT = FileFormat(NAME, recognizes, read, options=OPTIONS, families=FAMILIES)

The user says it as `--arch torchcfm,num_heads=8` or `--arch num_heads=8`, which other options than
the declared ones are refused by. In `read`,

    facts = given.resolve(OPTIONS, found, FAMILIES.get(given.name))

with what the file shows in `found` gives `facts["num_heads"]`, and refuses what contradicts the
file. `StoredNetwork(…, warnings=facts.warnings, facts=facts.facts)` tells what was assumed, and
`memaudit inspect` prints who said what. An option without a default is asked for.
"""

from memaudit.models.checkpoints.format import FileFormat, SourceFormat
from memaudit.models.checkpoints.formats import (
    ddpm,
    diffusers,
    dit,
    edm,
    k_diffusion,
    lucidrains,
    monai,
    native,
    openai,
    python_function,
    score_sde,
    state_dict,
    unsupported,
    uvit,
)

FILE_FORMATS: tuple[FileFormat, ...] = (
    native.FORMAT,
    k_diffusion.FORMAT,
    edm.FORMAT,
    openai.FORMAT,
    score_sde.FORMAT,
    uvit.FORMAT,
    dit.FORMAT,
    lucidrains.FORMAT,
    monai.FORMAT,
    ddpm.FORMAT,
    state_dict.FORMAT,
    unsupported.FORMAT,
)
SOURCE_FORMATS: tuple[SourceFormat, ...] = (
    python_function.FORMAT,
    diffusers.FORMAT,
)

"""The weights in a decoded file: where they lie, by which names, and whether they are an average.

What is sampled and published is the moving average (EMA) of a network's weights, under names that
differ from program to program. It is taken wherever the file has it:

    {"ema": {name: tensor}}                     any key with ema, swa or averaged in it
    {"ema": {"ema_model.name": tensor, …}}      ema_pytorch, beside online_model
    {"n_averaged": …, "module.name": tensor}    torch's AveragedModel
    {"shadow_params": [tensor, …]}              torch_ema and score_sde: in the order of the
                                                network's parameters, which the file has elsewhere
    {"shadow_params.0": tensor, …}              the same as a module, beside model.name
    {"model_ema.namewithoutdots": tensor}       CompVis, beside model.name

Other programs put a prefix before every name. The first weight of a kind of network, its anchor,
shows it.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from memaudit.errors import CheckpointError
from memaudit.models.checkpoints.containers.stored_tensors import StoredTensor
from memaudit.wording import shown

EMA = re.compile(
    r"(?:^|[_.\-\s])(?:ema|swa|averaged?|avg|shadow|polyak)(?:[_.\-\s\d]|$)", re.ASCII | re.I
)
NOT_EMA = re.compile(r"(?:non?|not|without)[_.\-\s]?ema|online", re.ASCII | re.I)
USUAL_KEYS = ("state_dict", "model_state_dict", "model", "net", "network", "params", "module")
"""Keys under which files keep weights, in the order in which they are looked at."""
WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.)+")
SHADOW = "shadow_params"
COUNTERS = ("n_averaged", "num_updates", "initted", "model_ema.num_updates")
"""What averages count their updates by, or say that there was one."""
BUFFERS = re.compile(r"(?:^|\.)(?:running_mean|running_var|resample_filter|sigmas)$", re.ASCII)
"""Names of tensors that no optimizer trains."""
MAX_DEPTH = 3
"""How deep dicts are looked into: Lightning keeps what its callbacks have three deep."""
MAX_KEYS = 64
"""Most entries of a dict that are looked into."""
MAX_DICTS = 256
"""Most dicts of one depth that are looked into."""
MAX_TENSORS = 50_000
"""Most tensors of a network; the largest that is known has some thousands."""
MAX_NAME = 100
MAX_MATCHING = 4_000_000
"""Most comparisons of shapes by which the tensors of a list find their names."""


@dataclass(frozen=True)
class Weights:
    """Tensors of a file by the names that their network gives them."""

    tensors: dict[str, StoredTensor]
    place: str
    """Key and prefix that they lie under; empty where the file holds nothing else."""
    is_ema: bool | None
    """Whether they are the moving average; None where the file does not say."""

    @property
    def said(self) -> str:
        """Which weights were taken, in words."""
        under = f", under {shown(self.place)}" if self.place else ""
        if self.is_ema:
            return f"the moving average (EMA){under}"
        if self.is_ema is None:
            return f"those of the file{under}; it does not say whether they are the average (EMA)"
        return f"the network in training, not its average (EMA){under}"

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a user should know of them, where they are not known to be the average."""
        if self.is_ema or (self.is_ema is None and not self.place):
            return ()
        if self.is_ema is None:
            return (
                f"The weights are those under {shown(self.place)}; the file does not say whether "
                "they are the moving average (EMA), which is what is sampled and published.",
            )
        return (
            f"The weights under {shown(self.place)} are those of the network in training, not its "
            "moving average (EMA), which is what is sampled and published.",
        )


def holds_weights(value: Any, anchor: str) -> bool:
    """Whether a decoded file holds weights of a kind of network; see `find_weights`."""
    if not isinstance(value, dict):
        return False
    pattern = _behind_prefix(anchor)
    parts = (value, *(part for _, part in _entries(value)))
    return any(pattern.fullmatch(name) for part in parts for name in _named(part))


def find_weights(value: Any, anchor: str) -> Weights | None:
    """The weights of a network of one kind in a decoded file: its average, if it has one.

    Args:
        value: what the file holds.
        anchor: regular expression of a name that every such network has, as the network itself
            calls it.

    Returns:
        Them without the prefixes of programs and wrappers, or None if the file holds none.

    Raises:
        CheckpointError: which tensors are the average is not clear, or they were never updated.
    """
    pattern = _behind_prefix(anchor)
    found: tuple[dict[str, StoredTensor], str, str, bool | None] | None = None
    for each in _candidates(value):
        for prefix in _prefixes(each.tensors, pattern):
            bare = WRAPPERS.sub("", prefix).rstrip(".")
            place = " ".join(part for part in (each.place, bare) if part)
            is_ema = each.is_ema if each.is_ema is not None else _is_average(bare)
            # An average, before a network that is not called online, before one that is.
            if is_ema or found is None or (found[-1] is False and is_ema is None):
                found = each.tensors, prefix, place, is_ema
            if is_ema:
                break
        if found is not None and found[-1]:
            break
    if found is None:
        if holds_weights(value, anchor):
            raise CheckpointError(
                "it holds an average (EMA) that was never updated, which is a copy of the weights "
                "before training, and no others. Give the file with the trained weights."
            )
        return None
    tensors, prefix, place, is_ema = found
    inner = {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
    return Weights(inner, place, is_ema)


def _behind_prefix(anchor: str) -> re.Pattern[str]:
    return re.compile(rf"(?P<prefix>(?:.*?\.)??){anchor}", re.ASCII | re.DOTALL)


def _prefixes(tensors: Mapping[str, StoredTensor], pattern: re.Pattern[str]) -> list[str]:
    """What stands before the anchor, each prefix once, those of an average first."""
    matches = (pattern.fullmatch(name) for name in tensors)
    prefixes = dict.fromkeys(match["prefix"] for match in matches if match)
    return sorted(prefixes, key=lambda prefix: not _is_average(prefix))[:MAX_KEYS]


def _is_average(name: str) -> bool | None:
    """Whether a key or prefix names an average; None where it says neither."""
    if NOT_EMA.search(name):
        return False
    return True if EMA.search(name) else None


def _candidates(value: Any) -> Iterator[Weights]:
    """Tensors by name, wherever a file holds them: averages first."""
    if not isinstance(value, dict):
        return
    places = [("", value), *_entries(value)]
    for place, part in places:  # the averages that need another part for their names
        if _has_begun(part):
            yield from _shadows(place, part, places)
    inner = [(place, tensors) for place, part in places if (tensors := _named(part))]
    inner.sort(key=lambda entry: not _is_average(entry[0]))
    for place, tensors in inner:
        if _has_begun(tensors):
            yield Weights(tensors, place, _is_average_module(place, tensors))
        elif "n_averaged" not in tensors:
            others = {n: t for n, t in tensors.items() if not _is_average(n.split(".", 1)[0])}
            yield Weights(others, place, False)


def _entries(value: Mapping[Any, Any]) -> list[tuple[str, dict[Any, Any]]]:
    """The dicts within a dict, three deep, by the keys that lead to them.

    Each is there once, however many keys hold it: by that of an average if there is one, else by
    the first.
    """
    found: list[tuple[str, dict[Any, Any]]] = []
    positions = {id(value): -1}
    pending = [("", value)]
    for _ in range(MAX_DEPTH):
        inner: list[tuple[str, dict[Any, Any]]] = []
        for place, part in pending:
            for key, within in islice(part.items(), MAX_KEYS):
                if isinstance(key, str) and isinstance(within, dict) and len(inner) < MAX_DICTS:
                    inner.append((f"{place} {key[:MAX_NAME]}".strip(), within))
        if not found:
            inner.sort(key=lambda each: (*USUAL_KEYS, each[0]).index(each[0]))
        pending = []
        for place, part in inner:
            position = positions.setdefault(id(part), len(found))
            if position == len(found):
                found.append((place, part))
                pending.append((place, part))
            elif position >= 0 and _is_average(place) and not _is_average(found[position][0]):
                found[position] = place, part
    return found


def _has_begun(part: Mapping[Any, Any]) -> bool:
    """Whether an average has been updated: before, it is a copy of the untrained weights."""
    for key in COUNTERS:
        count = part.get(key)
        if isinstance(count, StoredTensor) and count.num_elements == 1:
            count = count.read().item()
        if isinstance(count, int | float) and count == 0:
            return False
    return True


def _named(part: Any) -> dict[str, StoredTensor]:
    """A dict of nothing but tensors by name; empty for any other."""
    if (
        isinstance(part, dict)
        and len(part) <= MAX_TENSORS
        and all(
            isinstance(name, str) and isinstance(tensor, StoredTensor)
            for name, tensor in part.items()
        )
    ):
        return part
    return {}


def _is_average_module(place: str, tensors: Mapping[str, StoredTensor]) -> bool | None:
    """Whether tensors are an average by their key, or as torch's AveragedModel."""
    return True if "n_averaged" in tensors else _is_average(place)


def _shadows(
    place: str, part: Mapping[Any, Any], places: list[tuple[str, dict[Any, Any]]]
) -> Iterator[Weights]:
    """An average that is a list, or whose names lost their dots, by the names of its network."""
    shadow = part.get(SHADOW)
    if isinstance(shadow, list) and shadow and all(isinstance(t, StoredTensor) for t in shadow):
        networks = [(key, each) for key, each in places if _named(each) and not _is_average(key)]
        for _, network in networks[:1]:
            named = name_parameters(shadow, network)
            yield Weights(named, f"{place} {SHADOW}".strip(), True)
    tensors = _named(part)
    if f"{SHADOW}.0" in tensors:
        ordered = [tensors[key] for i in range(len(tensors)) if (key := f"{SHADOW}.{i}") in tensors]
        prefix = "model."
        network = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        if network:
            yield Weights(name_parameters(ordered, network), f"{place} {SHADOW}".strip(), True)
    yield from _dotless(place, tensors)


def _dotless(place: str, tensors: Mapping[str, StoredTensor]) -> Iterator[Weights]:
    """CompVis's average: `model_ema.` and the names of `model.` without their dots."""
    start = "model_ema."
    average = {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}
    network = {
        name.removeprefix("model."): tensor
        for name, tensor in tensors.items()
        if name.startswith("model.") and average
    }
    short = {name: name.replace(".", "") for name in network}
    if not any(each in average for each in short.values()):
        return
    if len(set(short.values())) != len(short):
        raise CheckpointError(
            "the names of its average (model_ema) stand for several weights each, so that it is "
            "not clear which is which."
        )
    named = {name: average.get(short[name], tensor) for name, tensor in network.items()}
    yield Weights(named, " ".join(part for part in (place, "model_ema") if part), True)


def name_parameters(
    shadow: list[StoredTensor], network: Mapping[str, StoredTensor]
) -> dict[str, StoredTensor]:
    """Name the tensors of an average that is a list, by the network that it is the average of.

    The list has the network's trained parameters in their order; what else the network has
    (buffers, fixed parameters) is taken from the network. Shapes tell which those are.

    Args:
        shadow: the average's tensors, in order.
        network: the tensors of the network by name, in its own order.

    Returns:
        All of the network's names.

    Raises:
        CheckpointError: the shapes fit in no way, or in more than one.
    """
    names = [
        name
        for name, tensor in network.items()
        if tensor.storage.dtype.is_floating_point and not BUFFERS.search(name)
    ]
    surplus = len(names) - len(shadow)
    if surplus < 0 or (surplus + 1) * len(shadow) > MAX_MATCHING:
        raise CheckpointError(
            f"its average ({SHADOW}) has {len(shadow):,} tensors, but its network {len(names):,}: "
            "they are not of one network."
        )
    # ways[i][k]: how the first i tensors fit the first i + k names, counted up to 2.
    ways = [bytes([1] * (surplus + 1))]
    for i, tensor in enumerate(shadow):
        row = bytearray(surplus + 1)
        for k in range(surplus + 1):
            fits = network[names[i + k]].shape == tensor.shape
            row[k] = min(2, (row[k - 1] if k else 0) + (ways[i][k] if fits else 0))
        ways.append(bytes(row))
    if ways[-1][surplus] != 1:
        how = "in no way" if not ways[-1][surplus] else "in several ways"
        raise CheckpointError(
            f"its average ({SHADOW}) has no names, and its shapes fit those of its network {how}, "
            "so that it is not clear which is which."
        )
    named = dict(network)
    k = surplus
    for i in range(len(shadow), 0, -1):
        while k and ways[i][k - 1]:
            k -= 1
        named[names[i - 1 + k]] = shadow[i - 1]
    return named


def find_tensors(value: Any) -> tuple[dict[str, StoredTensor], str | None]:
    """The first tensors by name in a decoded file, averages first, and the key they lie under.

    For formats without an anchor; empty if the file has none.
    """
    for weights in _candidates(value):
        return weights.tensors, weights.place or None
    return {}, None

"""What a recipe's networks look like inside: levels of blocks, found by their shapes only."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise, takewhile
from math import prod
from typing import Any

import torch
from attrs import asdict, define, evolve, field, frozen
from torch import Tensor, nn

from uldm_core.preflight.dry_build import TooLongError, reason, silence, without_values
from uldm_core.preflight.measure import parameters_of
from uldm_core.preflight.preflight import BATCH, Preflight, Row, checked
from uldm_core.preflight.probes import Inputs
from uldm_core.protocols import Autoencoder, Discriminator, HasQuantizer, Quantized
from uldm_core.recipe import ResolvedRecipe
from uldm_core.spec.component_spec import ComponentSpec, Reference
from uldm_plugins.diagram.trace import Block, Shape, Trace, blocks_of, first_tensor, followed

DOWN, UP = "down", "up"
SECONDS = 60.0
"""At most for all components: more than before a run, since some import large libraries first."""


@frozen
class Level:
    """Blocks in a row whose outputs have one height and width; where there are none, one shape.

    Args:
        blocks: in the order in which they run.
        resize: ``down`` or ``up`` where it begins by changing the height and width; else empty.
        joins: whether a block's input concatenates the block before it and an earlier one of this size.
        bottleneck: whether it is where the way down ends.
        branch: where it does not go on from the level before it, but begins anew from the network's input at
            another size, the shape of that; else empty.
    """

    blocks: list[Block]
    resize: str = ""
    joins: bool = False
    bottleneck: bool = False
    branch: Shape = ()

    @property
    def output(self) -> Shape:
        """The shape that it gives, without the batch."""
        return self.blocks[-1].output

    @property
    def grid(self) -> Shape:
        """Height and width; empty for vectors and sequences."""
        return grid_of(self.output)

    @property
    def width(self) -> int:
        """Its largest number of channels; of sequences [N, D] the largest D."""
        return max(channels_of(block.output) for block in self.blocks)

    @property
    def attention(self) -> bool:
        """Whether any block attends."""
        return any(block.attention for block in self.blocks)

    @property
    def parameters(self) -> int:
        """How many numbers its blocks have."""
        return sum(block.parameters for block in self.blocks)

    @property
    def repeated(self) -> int:
        """How many blocks of one type there are, made of others, of the type that there are most of."""
        return max(Counter(block.type for block in self.blocks if block.composite).values(), default=1)

    def contents(self) -> list[tuple[int, str]]:
        """Return its blocks by type, each with its count, in the order in which they first run."""
        counts = Counter(block.type for block in self.blocks if block.layer)
        return [(count, name) for name, count in counts.items()]

    def to_json(self) -> dict[str, Any]:
        """Return plain values, blocks that are no layers left out."""
        keys = ("output", "width", "resize", "joins", "bottleneck", "branch", "attention", "parameters")
        blocks = [asdict(block) for block in self.blocks if block.layer]
        return {key: getattr(self, key) for key in keys} | {"blocks": blocks}


@frozen
class Part:
    """What runs in one go: ``encoder``, ``quantizer``, ``decoder``, ``network``, ``conditioning``.

    Args:
        name: one of these.
        levels: in the order in which they run.
        parameters: how many numbers it has.
        why: if it did not run to its end on tensors without values, why.
    """

    name: str
    levels: list[Level]
    parameters: int = 0
    why: str = ""


@frozen
class Codebook:
    """An autoencoder's quantizer; None for what it does not declare.

    Args:
        use: its name in the recipe.
        size: codes of a codebook.
        dim: channels of a code.
        count: codes a position.
    """

    use: str
    size: int | None = None
    dim: int | None = None
    count: int = 1


@frozen
class NetworkLevels:
    """A component, and what it looks like inside.

    Args:
        name: in the recipe.
        kind: of component.
        network: whether it is of a kind that is drawn level by level; of others only the parameters are
            counted.
        use: its name in the registry, as written.
        row: what the preflight measured.
        input: the shape it is given, without the batch.
        output: the shape it gives.
        parts: what runs, in order; none for a component that is not traced.
        latents: of an autoencoder, their shape.
        codebook: of an autoencoder with a quantizer.
        receptive_field: of a discriminator, in pixels.
        prediction: of a denoiser, what it predicts: ``epsilon``, ``flow`` and so on.
        elsewhere: parameters that belong to no block.
        made_of: the components that it is given, by option.
    """

    name: str
    kind: str
    network: bool
    use: str
    row: Row
    input: Shape = ()
    output: Shape = ()
    parts: list[Part] = field(factory=list)
    latents: Shape = ()
    codebook: Codebook | None = None
    receptive_field: int | None = None
    prediction: str = ""
    elsewhere: int = 0
    made_of: dict[str, str] = field(factory=dict)

    def part(self, name: str) -> Part:
        """Return a part; an empty one if there is none of that name."""
        return next((part for part in self.parts if part.name == name), Part(name, []))

    @property
    def why(self) -> str:
        """Why it could not be measured, or traced to its end; empty if it could."""
        return self.row.why or next((part.why for part in self.parts if part.why), "")

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        parts = [
            {
                "part": part.name,
                "parameters": part.parameters,
                "why": part.why,
                "levels": [level.to_json() for level in part.levels],
            }
            for part in self.parts
        ]
        rest = asdict(self, filter=lambda attribute, _: attribute.name not in ("network", "row", "parts"))
        measured = asdict(self.row, filter=lambda attribute, _: attribute.name != "component")
        return {**rest, **measured, "output": self.output, "parts": parts}


def network_levels(resolved: ResolvedRecipe) -> list[NetworkLevels]:
    """Return what a recipe's components look like inside, in the recipe's order.

    Nothing is trained, read or stored. A component that cannot be run without values has the
    costs that preflight measured, and no levels.

    Raises:
        MistakeError: something in the recipe does not fit.
    """
    found = checked(resolved, SECONDS)
    with silence(), without_values(time.monotonic() + SECONDS), torch.enable_grad():
        return list(_all(resolved, found))


def _all(resolved: ResolvedRecipe, found: Preflight) -> Iterator[NetworkLevels]:
    inputs = _FollowedInputs(found.tried)
    for (name, spec), row in zip(resolved.components.items(), found.rows):
        given = {
            option: value.use for option, value in spec.options.items() if isinstance(value, ComponentSpec)
        }
        untraced = NetworkLevels(name, spec.kind.name, spec.kind.network, spec.use, row, made_of=given)
        component = found.tried.made.get(spec.key)
        if spec.kind.network and isinstance(component, nn.Module):
            yield _Tracer(inputs, untraced, component).traced(resolved, spec)
        elif spec.kind.data and component is not None:
            yield evolve(untraced, output=(component.channels, *component.size))
        else:
            yield untraced


class _FollowedInputs(Inputs):
    """Inputs that require a gradient, which shows what depends on them."""

    def _noted(self, name: str, tensor: Tensor) -> Tensor:
        return followed(super()._noted(name, tensor))


def _not_probed() -> object:
    raise NotImplementedError("its kind has no probe")


@define
class _Tracer:
    """Runs a network and sorts what ran."""

    inputs: Inputs
    untraced: NetworkLevels
    network: nn.Module
    counted: set[int] = field(factory=set)

    def traced(self, resolved: ResolvedRecipe, spec: ComponentSpec) -> NetworkLevels:
        """Return the component with its levels."""
        self.network.eval()
        if self.untraced.kind == "autoencoder" or isinstance(self.network, Autoencoder):
            found = self._autoencoder(self.network, _quantizer_of(resolved, spec))
        else:
            found = self._one_way(spec.kind.load_probe())
        total = sum(parameter.numel() for parameter in parameters_of(self.network))
        return evolve(found, elsewhere=total - sum(part.parameters for part in found.parts))

    def _autoencoder(self, network: Any, use: str) -> NetworkLevels:
        inputs = self.inputs
        encode = network.encode_with_indices if isinstance(network, Quantized) else network.encode
        given, encoded, trace, why = self._run(lambda: encode(inputs.images(BATCH)))
        latents, decoded, back, why_not = self._run(lambda: network.decode(inputs.latents(BATCH, network)))
        own = _modules_of(network.quantizer) if isinstance(network, HasQuantizer) else []
        blocks = self._blocks(trace)
        codes = [block for block in blocks if network.get_submodule(block.path) in own]
        parts = [_part("encoder", [block for block in blocks if block not in codes], why)]
        codebook = _codebook(network, encoded, use)
        if codebook:
            parts.append(_part("quantizer", codes, ""))
        blocks = self._blocks(back)
        way_back = [block for block in blocks if network.get_submodule(block.path) not in own]
        parts.append(_part("decoder", way_back, why_not))
        return evolve(
            self.untraced,
            input=given,
            output=_shape(decoded),
            latents=latents,
            codebook=codebook,
            parts=[_with_bottleneck(part) for part in parts],
        )

    def _one_way(self, probe: Callable[..., object] | None) -> NetworkLevels:
        forward = partial(probe, self.inputs, self.network, BATCH) if probe else _not_probed
        given, output, trace, why = self._run(forward)
        blocks = self._blocks(trace, follow=True)
        conditioning = [block for block in blocks if block.conditioning]
        part = _part("network", [block for block in blocks if not block.conditioning], why)
        parts = [_with_branches(_with_bottleneck(part), given)]
        parts += [_part("conditioning", conditioning, "")] if conditioning else []
        return evolve(
            self.untraced,
            input=given,
            output=_shape(output),
            parts=parts,
            receptive_field=self.network.receptive_field if isinstance(self.network, Discriminator) else None,
            prediction=self._prediction(),
        )

    def _prediction(self) -> str:
        process = self.inputs.tried.made.get(("noise_scheduler",))
        return process.prediction if self.untraced.kind == "denoiser" and process is not None else ""

    def _run(self, forward: Callable[[], object]) -> tuple[Shape, Any, Trace, str]:
        """Return what it was given, what it gave, what ran, and why it did not run to its end."""
        trace = Trace(self.network)
        self.inputs.shape = ()
        try:
            with trace:
                output = forward()
            return self.inputs.shape[1:], output, trace, ""
        except (Exception, SystemExit, TooLongError) as error:
            return self.inputs.shape[1:], None, trace, reason(error)

    def _blocks(self, trace: Trace, *, follow: bool = False) -> list[Block]:
        calls = [call for call in trace.top.blocks() if call.output]
        return blocks_of(calls, self.counted, follow=follow)


def _part(name: str, blocks: list[Block], why: str) -> Part:
    return Part(name, levels_of(blocks), sum(block.parameters for block in blocks), why)


def levels_of(blocks: Sequence[Block]) -> list[Level]:
    """Fold blocks that run one after another into levels.

    A level ends where height and width change (of vectors and sequences, the shape), and where blocks of
    another part of the network begin: ``mid_block`` after ``down_blocks``.
    """
    levels: list[Level] = []
    within = ""
    for block, stem in zip(blocks, _stems(blocks)):
        other_part = bool(stem and within and stem != within)
        if levels and _size(block.output) == _size(levels[-1].output) and not other_part:
            levels[-1].blocks.append(block)
            within = stem or within
        else:
            levels.append(Level([block]))
            within = stem
    return [_described(levels, index) for index in range(len(levels))]


def _size(shape: Shape) -> Shape:
    return grid_of(shape) or shape


def _stems(blocks: Sequence[Block]) -> list[str]:
    """Return for each block the part of the network that it is in; empty if that is unclear.

    Single layers, changes of size, and parts with attention only, may be anywhere.
    """
    placed = [block.composite and grid_of(block.input) == grid_of(block.output) for block in blocks]
    paths = [block.path.split(".") for block in blocks]
    at_each_depth = zip(*(path for path, is_placed in zip(paths, placed) if is_placed))
    common = len(list(takewhile(lambda names: len(set(names)) == 1, at_each_depth)))
    parts = [
        next((name for name in path[common:] if not name.isdigit()), "") if is_placed else ""
        for path, is_placed in zip(paths, placed)
    ]
    named = {part for part, block in zip(parts, blocks) if not block.attention}
    return [part if part in named else "" for part in parts]


def _described(levels: list[Level], index: int) -> Level:
    level = levels[index]
    before = [block for earlier in levels[:index] for block in earlier.blocks]
    first = level.blocks[0]
    entered = first.input if grid_of(first.input) != level.grid else before[-1].output if before else ()
    resize = ""
    if grid_of(entered) and level.grid and grid_of(entered) != level.grid:
        resize = DOWN if prod(grid_of(entered)) > prod(level.grid) else UP
    return evolve(level, resize=resize, joins=_joins(before, level.blocks))


def _joins(before: list[Block], blocks: list[Block]) -> bool:
    """Whether some block's channels are those of the one before it and of an earlier one of this size."""
    ran = list(before)
    for block in blocks:
        earlier = {
            channels_of(other.output) for other in ran[:-1] if _size(other.output) == _size(block.output)
        }
        if ran and grid_of(block.input) and block.input[0] - channels_of(ran[-1].output) in earlier:
            return True
        ran.append(block)
    return False


def _with_bottleneck(part: Part) -> Part:
    """Mark the levels where the way down ends: an encoder's last, a decoder's first, a U-Net's lowest."""
    begins = [0] if part.levels and not part.levels[0].resize else []
    ends = {"encoder": [len(part.levels) - 1], "decoder": begins, "network": _lowest(part.levels)}
    marked = ends.get(part.name, [])
    levels = [
        evolve(level, bottleneck=index in marked and bool(level.grid))
        for index, level in enumerate(part.levels)
    ]
    return evolve(part, levels=levels)


def _with_branches(part: Part, given: Shape) -> Part:
    """Mark the levels that begin anew from the network's input, larger than the level before; no U-Net's."""
    if any(level.bottleneck for level in part.levels):
        return part
    levels = part.levels[:1]
    for before, level in pairwise(part.levels):
        entered = level.blocks[0].input
        anew = entered[:1] == given[:1] and entered != before.output
        larger = bool(before.grid) and prod(grid_of(entered)) > prod(before.grid)
        levels.append(evolve(level, branch=entered if anew and larger else ()))
    return evolve(part, levels=levels)


def _lowest(levels: list[Level]) -> list[int]:
    """Return the middle of a U-Net's lowest levels; nothing if the size does not fall and rise again."""
    areas = [prod(level.grid) for level in levels]
    if not areas or not all(level.grid for level in levels):
        return []
    lowest = [index for index, area in enumerate(areas) if area == min(areas)]
    falls_and_rises = any(level.resize == DOWN for level in levels) and areas[-1] > min(areas)
    return [lowest[len(lowest) // 2]] if falls_and_rises else []


def _quantizer_of(resolved: ResolvedRecipe, spec: ComponentSpec) -> str:
    """Return the name of the quantizer that an autoencoder is given; empty if it is given none."""
    for value in spec.options.values():
        chosen = resolved.components.get(value.name) if isinstance(value, Reference) else value
        if isinstance(chosen, ComponentSpec) and chosen.kind.name == "quantizer":
            return chosen.use
    return ""


def _codebook(network: nn.Module, encoded: Any, use: str) -> Codebook | None:
    if not isinstance(network, HasQuantizer):
        return None
    quantizer = network.quantizer
    indices = encoded[2] if isinstance(encoded, tuple) and len(encoded) > 2 else None
    count = indices.shape[1] if isinstance(indices, Tensor) and indices.ndim == 4 else 1
    name = use or type(quantizer).__name__
    return Codebook(name, quantizer.codebook_size, quantizer.dim, count)


def _modules_of(quantizer: Any) -> list[nn.Module]:
    return list(quantizer.modules()) if isinstance(quantizer, nn.Module) else []


def _shape(output: Any) -> Shape:
    tensor = first_tensor(output)
    return () if tensor is None else tuple(tensor.shape[1:])


def grid_of(shape: Shape) -> Shape:
    """Return height and width of a shape without the batch; empty for vectors and sequences."""
    return shape[1:] if len(shape) > 2 else ()


def channels_of(shape: Shape) -> int:
    """Return the channels of images [C, H, W], or the width of vectors [D] and sequences [N, D]."""
    return shape[0] if grid_of(shape) else shape[-1]

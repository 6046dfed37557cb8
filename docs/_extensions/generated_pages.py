"""Pages generated from the registry, so that they are never out of date.

``reference/components/KIND.md`` has the output of ``uldm show``. The files in ``reference/included`` are
parts of other pages: ``components.md`` lists what ``uldm ls`` lists, ``commands.md`` has each ``--help``, and
``contracts.md`` the checks of ``uldm check``.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

from uldm_core import protocols, registry
from uldm_core.cli.main import cli
from uldm_core.errors import UldmError
from uldm_core.kinds import Kind
from uldm_core.registry.component import Component
from uldm_core.spec.format_types import format_value
from uldm_core.testing.checks import module
from uldm_core.testing.contract import Check, contract_of
from uldm_plugins.commands.page import page_of

OURS = "uldm"
CHECKOUT = Path(inspect.getfile(registry)).parents[1]


def setup(app: Sphinx) -> dict[str, bool]:
    """Write the pages before Sphinx searches for documents."""
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def write_pages(app: Sphinx) -> None:
    """Write every page that is new or has changed."""
    try:
        pages = dict(generated_pages())
    except UldmError as error:
        raise ExtensionError(str(error)) from error
    folder = Path(app.srcdir) / "reference"
    for name, text in pages.items():
        path = folder / name
        if not path.is_file() or path.read_text("utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
    for path in folder.rglob("*.md"):
        if path.relative_to(folder).as_posix() not in pages:
            path.unlink()


def generated_pages() -> Iterator[tuple[str, str]]:
    """Yield each page's path below ``reference`` with its text."""
    for kind in our_kinds():
        yield f"components/{kind.name}.md", "\n".join(kind_page(kind))
    yield "included/components.md", "\n".join(components_table())
    yield "included/commands.md", "\n".join(commands_page())
    yield "included/contracts.md", "\n".join(contracts_page())


def our_kinds() -> list[Kind]:
    """Return the kinds with components of ours, leaving out those of other plugins in the environment."""
    kinds = registry.default().kinds.values()
    return [kind for kind in kinds if our_components(kind)]


def our_components(kind: Kind) -> list[Component]:
    """Return our components of a kind, by name; those of adapters last."""
    own = registry.default()
    found = [c for c in own.components(kind.name) if c.distribution == OURS]
    return sorted(found, key=lambda component: (component.plugin != OURS, own.name_of(component)))


def components_table() -> Iterator[str]:
    """Yield the lines of a table of all kinds and their components, each with a link."""
    rows = []
    for kind in our_kinds():
        names = map(registry.default().name_of, our_components(kind))
        linked = [f"[`{name}`](#{label(kind, name)})" for name in names]
        rows.append([f"[{kind.name}](/reference/components/{kind.name}.md)", ", ".join(linked)])
    yield from table(["kind", "components"], rows)


def kind_page(kind: Kind) -> Iterator[str]:
    """Yield the lines of a kind's page: its components at a glance, then each with its options."""
    named = [(registry.default().name_of(component), component) for component in our_components(kind)]
    yield f"# {kind.name}\n"
    yield to_markdown(introduction(kind))
    yield f"[The contract of this kind](../../contracts.md#{kind.name}).\n"
    rows = (
        [f"[`{name}`](#{label(kind, name)})", to_markdown(component.summary)] for name, component in named
    )
    yield from table(["component", "description"], rows)
    for name, component in named:
        yield f"({label(kind, name)})=\n"
        yield f"## {name}\n"
        yield from component_section(component) if component.installed else absent_section(component)


def component_section(component: Component) -> Iterator[str]:
    """Yield the output of ``uldm show`` for a component, as Markdown."""
    page = page_of(f"{component.kind}/{component.plugin}/{component.name}")
    yield f"{to_markdown(page['text'])}\n"
    if page["options"]:
        yield from table(["option", "default", "type", "meaning"], map(option_cells, page["options"]))
    if component.xfail:
        known = (f"`{check}`: {to_markdown(reason)}" for check, reason in component.xfail.items())
        yield f"Known exceptions to its contract: {'; '.join(known)}.\n"
    yield from fenced("toml", page["in_a_recipe"])
    if page["in_python"]:
        yield from fenced("python", page["in_python"])


def absent_section(component: Component) -> Iterator[str]:
    """Yield the lines on a component whose library is not installed, so that its options are unknown."""
    fix = f"pip install {component.requires}"
    yield to_markdown(sentence(component.summary))
    yield f"It needs a library of its own: `{fix}`. With it, `uldm show` lists its options.\n"


def option_cells(row: Mapping[str, Any]) -> list[str]:
    """Return an option's cells."""
    if row["filled_from"]:
        default = f"from {to_markdown(row['filled_from'])}"
    else:
        default = "required" if row["required"] else f"`{format_value(row['default'])}`"
    return [f"`{row['name']}`", default, to_markdown(row["type"]), to_markdown(row["help"])]


def commands_page() -> Iterator[str]:
    """Yield the ``--help`` of every command, as Markdown."""
    context = click.Context(cli, info_name="uldm")
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None, name
        yield from command_section(command, click.Context(command, parent=context, info_name=name), "##")


def command_section(command: click.Command, context: click.Context, level: str) -> Iterator[str]:
    """Yield the lines of a command, and of its subcommands."""
    yield f"{level} {context.command_path}\n"
    yield from fenced("text", " ".join([context.command_path, *command.collect_usage_pieces(context)]))
    yield f"{to_markdown(inspect.cleandoc(command.help or ''))}\n"
    records = [parameter.get_help_record(context) for parameter in command.get_params(context)]
    rows = [
        [f"`{name}`", to_markdown(description)]
        for name, description in filter(None, records)
        if description and "--help" not in name
    ]
    if rows:
        yield from table(["option", "what it does"], rows)
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            yield from command_section(below, click.Context(below, parent=context, info_name=name), "###")


def contracts_page() -> Iterator[str]:
    """Yield every kind's protocol and checks, then the checks of every module and the other protocols."""
    for kind in our_kinds():
        contract = contract_of(kind)
        yield f"## {kind.name}\n"
        yield from protocol_source(kind.load_protocol())
        if contract.inputs:
            yield "An `nn.Module` must also pass the checks of [every module](#every-module).\n"
        yield from checks_table(contract.checks)
    yield "## Every module\n"
    yield from checks_table(module.contract.checks)
    yield "## Other protocols\n"
    yield "What kinds have in common, what is optional, and what the engine passes to stages and trackers.\n"
    of_kinds = {kind.load_protocol() for kind in our_kinds()}
    for name, declared in vars(protocols).items():
        ours = inspect.isclass(declared) and declared.__module__ == protocols.__name__
        if ours and declared not in of_kinds and not name.startswith("_"):
            yield from protocol_source(declared)


def protocol_source(protocol: type) -> Iterator[str]:
    """Yield a protocol as it is declared."""
    yield from fenced("python", inspect.getsource(protocol).removeprefix("@runtime_checkable\n"))


def checks_table(checks: Iterable[Check]) -> Iterator[str]:
    """Yield the lines of a table of checks."""
    rows = ([f"`{check.name}`", to_markdown(inspect.getdoc(check.function) or "")] for check in checks)
    yield from table(["check", "what it checks"], rows)


def table(head: list[str], rows: Iterable[list[str]]) -> Iterator[str]:
    """Yield the lines of a table; its cells are Markdown."""
    yield from (line(cells) for cells in (head, ["---"] * len(head), *rows))
    yield ""


def line(cells: list[str]) -> str:
    """Return one line of a table."""
    return "| " + " | ".join(re.sub(r"\\?\|", r"\|", " ".join(cell.split())) for cell in cells) + " |"


def fenced(language: str, code: str) -> Iterator[str]:
    """Yield the lines of a block of code; paths are made relative to the checkout."""
    yield f"```{language}\n{code.rstrip().replace(f'{CHECKOUT}/', '')}\n```\n"


def introduction(kind: Kind) -> str:
    """Return a kind's summary as a sentence, and its protocol's first paragraph."""
    summary = sentence(kind.summary)
    protocol = (inspect.getdoc(kind.load_protocol()) or "").partition("\n\n")[0]
    return protocol if protocol.startswith(summary) else f"{summary} {protocol}"


def sentence(text: str) -> str:
    """Return a summary as a sentence."""
    return f"{text[:1].upper()}{text[1:]}."


def label(kind: Kind, name: str) -> str:
    """Return the anchor of a component's section."""
    return re.sub(r"[^a-z0-9]+", "-", f"{kind.name}-{name}".lower())


def to_markdown(text: str) -> str:
    """Return a docstring as Markdown: code stays code, in everything else special characters are escaped."""
    parts = re.split(r"(``.+?``|`.+?`)", text, flags=re.DOTALL)
    text = "".join(part if part[:1] == "`" else re.sub(r"([*_\[\]<>$|\\#])", r"\\\1", part) for part in parts)
    text = re.sub(r"arXiv\s+(\d{4}\.\d{4,5})", r"[arXiv \1](https://arxiv.org/abs/\1)", text)
    return re.sub(r"^(\w+):\n((?: +.*\n?)+)", _listed, text, flags=re.MULTILINE)


def _listed(section: re.Match[str]) -> str:
    """Return a section of a docstring (``Raises:``) as a list."""
    entries = re.sub(r"^    (?! )", "- ", section[2], flags=re.MULTILINE)
    return f"{section[1]}:\n\n{entries}"

"""The source files that a component's behaviour is in: its class's, its bases', and what these import."""

from __future__ import annotations

import ast
import inspect
import sys
import sysconfig
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

from uldm_core.run_folder.files import core_version, digest

_BY_VERSION = {"uldm_core", "torch", "builtins", *sys.stdlib_module_names}
"""Top-level packages whose files are not read. The core counts by its version."""


def code_of(targets: Iterable[Callable[..., object]]) -> dict[str, str]:
    """Return a digest of each source file that classes or functions depend on, and the core's version.

    These are their own files, those of the classes' bases, and every module of the same top-level package
    that one of them imports, in whatever function; imports are read, not executed. The names of files begin
    with the top-level package; a file is read again only if its size or time of change is another.
    """
    waiting = {module for target in targets for module in _modules_of(target)}
    found: dict[str, str] = {}
    seen: set[tuple[Path, str]] = set()
    while waiting:
        root, module = waiting.pop()
        seen.add((root, module))
        if (path := _file(root, module)) is not None:
            status = path.stat()
            content_digest, imports = _read(path, root, module, status.st_mtime_ns, status.st_size)
            found[path.relative_to(root).as_posix()] = content_digest
            waiting |= {(root, name) for name in imports} - seen
    return {**dict(sorted(found.items())), "uldm_core": core_version()}


def _modules_of(target: Callable[..., object]) -> Iterator[tuple[Path, str]]:
    """Yield the folder above the package, and the name, of the modules of a class and its bases."""
    for owner in inspect.getmro(target) if isinstance(target, type) else (target,):
        name = str(getattr(owner, "__module__", ""))
        file = getattr(sys.modules.get(name), "__file__", None)
        if file and name.partition(".")[0] not in _BY_VERSION:
            path = Path(file)
            place = path.parent if path.name == "__init__.py" else path.with_suffix("")
            # one that is loaded by its path does not lie where its module's name says
            named = place.name == name.rpartition(".")[2]
            yield (place.parents[name.count(".")], name) if named else (path.parent, path.stem)


def _file(root: Path, module: str) -> Path | None:
    path = root.joinpath(*module.split("."))
    candidates = (path / "__init__.py", path.with_name(f"{path.name}.py"))
    return next((candidate for candidate in candidates if candidate.is_file()), None)


@cache
def _read(path: Path, root: Path, module: str, changed: int, size: int) -> tuple[str, frozenset[str]]:
    """Return a file's digest and what it imports of its own package; read again when it has changed."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return digest(path), frozenset(_imports(path.read_bytes(), package, root))


def _imports(content: bytes, package: str, root: Path) -> Iterator[str]:
    """Yield the modules of the same package that a file imports, and the packages that they are in."""
    top = package.partition(".")[0]
    if top and top.encode() not in content and b"from ." not in content:
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # whoever runs the code is warned of it
            statements = ast.parse(content).body
    except SyntaxError:  # it cannot be imported, so what it would import does not matter
        return
    for name in _imported(statements, package):
        parts = name.split(".")
        if parts[0] == top or (not top and _is_beside(root, parts[0])):
            yield from (".".join(parts[:count]) for count in range(1, len(parts) + 1))


def _imported(statements: Iterable[ast.AST], package: str) -> Iterator[str]:
    """Yield the full names that are imported; an attribute of a module looks like a module within it."""
    for node in statements:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        for inner in ("body", "orelse", "finalbody", "handlers", "cases"):
            yield from _imported(getattr(node, inner, ()), package)


def _is_beside(root: Path, module: str) -> bool:
    """Whether a file of no package imports one beside it; not so among installed packages."""
    return str(root) not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")) and bool(
        _file(root, module)
    )

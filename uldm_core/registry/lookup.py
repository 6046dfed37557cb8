"""The registry: which components there are, by kind and name, and which plugin brought them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from functools import cache

from uldm_core.errors import MistakeError, did_you_mean, listing, with_article
from uldm_core.kinds import BUILTIN_KINDS, Kind
from uldm_core.registry.component import Component
from uldm_core.registry.plugins import (
    OWN_PLUGIN,
    Command,
    Plugin,
    PluginWarning,
    check_kinds,
    discover,
    warn_of_unknown,
)


class Registry:
    """Components by kind and name, and the plugins they came from."""

    def __init__(self) -> None:
        self.kinds: dict[str, Kind] = {kind.name: kind for kind in BUILTIN_KINDS}
        self.plugins: dict[str, Plugin] = {}
        self.commands: dict[str, Command] = {}
        self._components: dict[tuple[str, str], list[Component]] = {}

    def load_plugins(self, block: Iterable[str] = (), *, strict: bool = False) -> None:
        """Add every installed plugin but those named in ``block``; a broken one is skipped with a warning.

        Raises:
            MistakeError: ``strict``, and there is anything to warn of.
        """
        block = list(block)
        warn_of_unknown(block)
        with warnings.catch_warnings():
            if strict:
                warnings.simplefilter("error", PluginWarning)
            try:
                self._load_plugins(block)
            except PluginWarning as warning:
                if not strict:
                    raise
                raise MistakeError(
                    str(warning), hint="uldm doctor shows more; without --strict it goes on"
                ) from None

    def _load_plugins(self, block: Iterable[str]) -> None:
        own = [kind.name for kind in BUILTIN_KINDS]
        plugins = list(discover(block))
        known = {*self.kinds, *(kind.name for plugin in plugins for kind in plugin.kinds)}
        plugins = [check_kinds(plugin, known, own) for plugin in plugins]
        for plugin in plugins:  # all kinds first: a component may be of a kind that a later plugin brings
            self._add_kinds(plugin)
        for plugin in sorted(
            plugins, key=lambda plugin: plugin.name != OWN_PLUGIN
        ):  # to see who takes its names
            self.add_plugin(plugin)

    def add_plugin(self, plugin: Plugin) -> None:
        """Add a plugin's kinds, components and commands; none of them if a component's kind is unknown."""
        for component in plugin.components:
            if component.kind not in (kind.name for kind in plugin.kinds):
                self.kind(component.kind)
        plugin = self._told_of_taken_names(plugin)
        self.plugins[plugin.name if plugin.name not in self.plugins else str(plugin)] = plugin
        self._add_kinds(plugin)
        for component in plugin.components:
            self.register(component)
        for command in plugin.commands:
            self.commands.setdefault(command.name, command)

    def _told_of_taken_names(self, plugin: Plugin) -> Plugin:
        """Warn of a stranger that brings names of our own, which keep them."""
        records = (record for found in self._components.values() for record in found)
        ours = {record.path for record in records if record.plugin == OWN_PLUGIN}
        taken = [c for c in plugin.components if c.path in ours and plugin.name != OWN_PLUGIN]
        if not taken or self._is_of_our_own_house(plugin):
            return plugin
        choices = listing([f"{plugin.name}/{component.name}" for component in taken])
        return plugin.with_fault(
            f"brings {listing([c.path for c in taken])}, which uldm has: uldm's own keeps the bare name",
            f"write {choices} in recipes, or ask its authors for another name",
        )

    def _is_of_our_own_house(self, plugin: Plugin) -> bool:
        """Whether the distribution of our own plugin brings it, which means its names."""
        own = self.plugins.get(OWN_PLUGIN)
        return own is not None and bool(own.distribution) and plugin.distribution == own.distribution

    def _add_kinds(self, plugin: Plugin) -> None:
        self.kinds.update({kind.name: kind for kind in plugin.kinds})

    def register(self, component: Component) -> None:
        """Add one component; a later one of the same name, kind and plugin takes the earlier one's place."""
        self.kind(component.kind)
        found = self._components.setdefault((component.kind, component.name), [])
        found[:] = [other for other in found if other.plugin != component.plugin] + [component]

    def kind(self, name: str) -> Kind:
        """Return the kind of that name."""
        if name not in self.kinds:
            raise MistakeError(
                f"unknown kind {name!r}{did_you_mean(name, self.kinds)}",
                hint=f"the kinds are: {listing(sorted(self.kinds))}",
            )
        return self.kinds[name]

    def kind_of(self, annotation: object) -> Kind | None:
        """Return the kind whose protocol the annotation is, or None."""
        return _kinds_by_protocol(tuple(self.kinds.values())).get(annotation)

    def components(self, kind: str | None = None) -> list[Component]:
        """Return all components (of one kind), by kind in the order of the kinds, then by name."""
        order = list(self.kinds)
        wanted = order if kind is None else [self.kind(kind).name]
        found = [component for records in self._components.values() for component in records]
        found = [component for component in found if component.kind in wanted]
        return sorted(found, key=lambda c: (order.index(c.kind), c.name, c.plugin != OWN_PLUGIN, c.plugin))

    def names(self, kind: str) -> list[str]:
        """Return the names of a kind's components, sorted."""
        return sorted({component.name for component in self.components(kind)})

    def get(self, kind: str, name: str) -> Component:
        """Return a component by its name, or by ``plugin/name``.

        Raises:
            MistakeError: there is none, or several plugins bring one of that bare name.
        """
        plugin, _, bare = name.rpartition("/")
        found = self._components.get((self.kind(kind).name, bare), [])
        if plugin:
            found = [component for component in found if component.plugin == plugin]
        if not found:
            what = f"unknown {kind} {name!r}{did_you_mean(bare, self.names(kind))}"
            raise MistakeError(what, hint=self._elsewhere(kind, plugin, bare))
        return found[0] if len(found) == 1 else _settle_tie(kind, bare, found)

    def _elsewhere(self, kind: str, plugin: str, name: str) -> str:
        """Say what is registered of a kind, what else bears a name, and which plugins could not be loaded."""
        hints = [f"registered: {listing(self.names(kind))}"]
        others = sorted(
            {component.kind for component in self.components() if component.name == name} - {kind}
        )
        if others:
            hints.insert(0, f"{name} is {' and '.join(map(with_article, others))}")
        for skipped in [other for other in self.plugins.values() if other.skipped]:
            if plugin in ("", skipped.name):
                hints.append(f"{skipped} was skipped, see uldm doctor; {skipped.mend}")
        return "; ".join(hints)

    def name_of(self, component: Component) -> str:
        """Return how recipes write it: its bare name, or ``plugin/name`` where that is not it alone."""
        found = self._components[component.kind, component.name]
        alone = found == [component] or component.plugin == OWN_PLUGIN
        return component.name if alone or not component.plugin else f"{component.plugin}/{component.name}"


@cache
def _kinds_by_protocol(kinds: tuple[Kind, ...]) -> dict[object, Kind]:
    return {kind.load_protocol(): kind for kind in kinds}


def _settle_tie(kind: str, name: str, found: list[Component]) -> Component:
    """Our own component wins over a stranger's of the same name; between strangers nobody wins."""
    for component in found:
        if component.plugin == OWN_PLUGIN:
            return component
    choices = listing([f"{component.plugin}/{name}" for component in found])
    raise MistakeError(f"{kind} {name!r} is brought by several plugins", hint=f"write one of: {choices}")

"""Links from every name of a component, as in ``quantizer/vq_ema``, to its section."""

from docutils import nodes
from generated_pages import label, our_components, our_kinds
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.nodes import make_refnode

from uldm_core import registry


class ComponentLinks(SphinxPostTransform):
    """Turns each literal that is a component's kind and name into a link."""

    default_priority = 500

    def run(self, **kwargs: object) -> None:
        """Insert the links."""
        places = component_places()
        for literal in list(self.document.findall(nodes.literal)):
            if literal.astext() in places and not isinstance(literal.parent, nodes.reference):
                page, anchor = places[literal.astext()]
                here = self.env.docname
                literal.replace_self(make_refnode(self.app.builder, here, page, anchor, literal.deepcopy()))


def component_places() -> dict[str, tuple[str, str]]:
    """Return the page and the anchor of each component, by its kind and name."""
    name_of = registry.default().name_of
    named = [(kind, name_of(component)) for kind in our_kinds() for component in our_components(kind)]
    return {
        f"{kind.name}/{name}": (f"reference/components/{kind.name}", label(kind, name))
        for kind, name in named
    }


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the transform."""
    app.add_post_transform(ComponentLinks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

"""The site: ``pip install -e '.[docs]'``, then ``sphinx-build -W -n docs OUT``; it needs no network."""

import sys
from importlib.metadata import version as version_of
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "uldm"
release = version = version_of("uldm")
extensions = ["myst_parser", "generated_pages", "component_links", "mathml"]
exclude_patterns = ["reference/included"]

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
smartquotes = False  # quotes in recipes and shells must stay as typed

html_theme = "furo"
html_title = "uldm"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False
html_math_renderer = "mathml"

linkcheck_timeout = 20

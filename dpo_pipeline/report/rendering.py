"""Templates filled in: one page that needs nothing but itself.

Everything a model or a source wrote is data: jinja2 escapes it, and the page's content policy
allows no script, no request and no style but its own.
"""

import base64
import hashlib
from importlib import resources
from pathlib import Path

from dpo_pipeline.evaluation.measures import find
from dpo_pipeline.report.words import show, show_evidence, visible


def render(out: Path, template: str, **context: object) -> Path:
    """Fill a template in and write the page; returns its path."""
    import jinja2

    data = resources.files("dpo_pipeline.report") / "templates"
    style = (data / "report.css").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(lambda name: (data / name).read_text(encoding="utf-8")),
    )
    environment.filters |= {
        "visible": lambda value: visible(str(value)),
        "show": lambda value, key: show(value, find(key)),
        "evidence": show_evidence,
        "measure": find,
    }
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    page = environment.get_template(template).render(**context, style=style, style_digest=digest)
    out.write_text(page, encoding="utf-8", errors="replace")
    return out

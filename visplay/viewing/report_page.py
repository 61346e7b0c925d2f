"""The report of a run as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Mapping
from importlib.resources import files
from string import Template
from typing import Any


def render_report(described: Mapping[str, Any], footer: str = "") -> str:
    """Write what ``describe_run`` has collected as a page.

    No text of a model or a table is part of the page's markup or its script: it is JSON, in which ``<`` is an escape,
    and the page's only script, known to its policy by its hash, makes text nodes of it. Nothing is loaded.

    Args:
        described: JSON values.
        footer: Plain text below the page.
    """
    assets = files("visplay.viewing") / "assets"
    page, style, script = ((assets / f"report.{kind}").read_text("utf-8") for kind in ("html", "css", "js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = json.dumps(described, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Template(page).substitute(
        title=html.escape(f"{described['name']}: report"),
        footer=html.escape(footer),
        style=style,
        script=script,
        script_hash=f"sha256-{digest}",
        data=text.replace("<", "\\u003c"),
    )

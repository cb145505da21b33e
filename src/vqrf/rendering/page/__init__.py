"""One HTML page that shows a scene: the viewer, and the file in it or beside it.

The page works from `file://` by double click and asks nobody for anything: its policy allows the one script that is in it, by
its hash, and no connection. The script `viewer.js` is what `viewer/build.js` makes of the sources in `viewer/src`; it is kept
here so that an installation needs no node.
"""

from __future__ import annotations

import base64
import hashlib
import html
from importlib.resources import files

_STYLE = "html,body{height:100%;margin:0}vqrf-viewer{height:100%}noscript p{margin:2em;font:16px sans-serif}"

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="referrer" content="no-referrer">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<noscript><p>This page shows a 3-D scene, for which it needs JavaScript.</p></noscript>
<vqrf-viewer hash{attributes}></vqrf-viewer>
{scene}<script>{script}</script>
</body>
</html>
"""


def page_with_scene(data: bytes, name: str) -> bytes:
    """A page with the file inside, for `file://` or any server.

    Args:
      data: the bytes of a .vqrf file; put in as they are, in base64.
      name: what the file is called, for the reader of the page.

    >>> page = page_with_scene(b"scene", "ball.vqrf")
    >>> b"connect-src 'none'" in page, b"c2NlbmU=" in page
    (True, True)
    """
    encoded = base64.b64encode(data).decode()
    kind = "application/octet-stream;base64"
    scene = f'<script type="{kind}" id="scene" data-name="{html.escape(_as_text(name))}">{encoded}</script>\n'
    return _page(name, connect="'none'", attributes="", scene=scene)


def page_with_source(source: str, name: str, refresh_seconds: float = 0) -> bytes:
    """A page that fetches the file from the server it comes from.

    Args:
      source: URL, relative to the page.
      refresh_seconds: after which the server is asked for a newer version; 0: never.
    """
    refresh = f' refresh="{refresh_seconds:g}"' if refresh_seconds else ""
    return _page(name, connect="'self'", attributes=f' src="{html.escape(source)}"{refresh}', scene="")


def _as_text(name: str) -> str:
    """A name that may be no text, as names of files may, with escapes for what is none."""
    return name.encode("utf-8", "backslashreplace").decode()


def _page(name: str, *, connect: str, attributes: str, scene: str) -> bytes:
    script = files("vqrf.rendering.page").joinpath("viewer.js").read_text("utf-8")
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src '{_hash(script)}'",
            f"style-src '{_hash(_STYLE)}'",
            "worker-src blob:",
            "img-src data:",
            f"connect-src {connect}",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    page = _PAGE.format(
        policy=policy, title=html.escape(_as_text(name)), style=_STYLE, attributes=attributes, scene=scene, script=script
    )
    return page.encode()


def _hash(text: str) -> str:
    """The name by which a content security policy allows a text that stands in the page."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

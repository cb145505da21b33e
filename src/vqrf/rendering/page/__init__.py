"""One HTML page that shows a scene: the viewer, and the file in it or beside it.

The page works from `file://` by double click and asks nobody for anything: its policy allows the one script that is in it, by
its hash, and no connection. The script `viewer.js` is what `viewer/build.js` makes of the sources in `viewer/src`; it is kept
here so that an installation needs no node.
"""

from __future__ import annotations

import base64
import hashlib
import html
from dataclasses import dataclass
from importlib.resources import files

from vqrf.codec.about import NOTHING, About

_STYLE = (
    "html,body,main{height:100%;margin:0}vqrf-viewer{display:block;height:100%}noscript p{margin:2em;font:16px sans-serif}"
    "vqrf-viewer>img{width:100%;height:100%;object-fit:contain}"
    "h1{position:absolute;width:1px;height:1px;margin:0;overflow:hidden;clip-path:inset(50%)}"
)

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="referrer" content="no-referrer">
<title>{title}</title>
{head}<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
<noscript><p>This page shows a 3-D scene, for which it needs JavaScript.</p></noscript>
<vqrf-viewer hash auto-rotate{attributes}>{poster}</vqrf-viewer>
</main>
{scene}<script>{script}</script>
</body>
</html>
"""


@dataclass(frozen=True)
class Link:
    """Where a page will stand, so that a link to it has a picture.

    Attributes:
      address: of the page, `https://...`.
      picture: the address of a picture.
    """

    address: str
    picture: str


def page_with_scene(data: bytes, name: str, about: About = NOTHING, link: Link | None = None) -> bytes:
    """A page with the file inside, for `file://` or any server.

    Args:
      data: the bytes of a .vqrf file; put in as they are, in base64.
      name: what the file is called, for the reader of the page.
      about: what the file says of itself: the page's title, its description, and the picture that is there at once.

    >>> page = page_with_scene(b"scene", "ball.vqrf", About(title="<A ball>", author="A. N."))
    >>> b"connect-src 'none'" in page, b"c2NlbmU=" in page, b"<title>&lt;A ball&gt;</title>" in page
    (True, True, True)
    """
    shown = _Shown(about.title or name, _head(about, about.title or name, link), _image(about.poster))
    return _page(shown, connect="'none'", attributes="", scene=_inside(data, name))


@dataclass(frozen=True)
class Exhibit:
    """A scene as a part of a page about more than it.

    Attributes:
      body: HTML: the viewer, which the page's style gives a height, the file, and the script, which comes last in a page.
      policy: what the page's content security policy has to allow besides images as `data:`, and styles.
    """

    body: str
    policy: str


def exhibit(data: bytes, name: str, about: About = NOTHING) -> Exhibit:
    """The file as a part of another page: it turns until it is touched, and leaves the page its scrolling.

    Args:
      data, name, about: as `page_with_scene` takes them.
    """
    viewer = f'<vqrf-viewer auto-rotate interaction="ctrl">{_image(about.poster)}</vqrf-viewer>'
    script = _script()
    body = f"{viewer}\n{_inside(data, name)}<script>{script}</script>"
    return Exhibit(body, f"script-src '{_hash(script)}'; worker-src blob:")


def _inside(data: bytes, name: str) -> str:
    """The file as the page's script finds it."""
    kind = "application/octet-stream;base64"
    encoded = base64.b64encode(data).decode()
    return f'<script type="{kind}" id="scene" data-name="{html.escape(_as_text(name))}">{encoded}</script>\n'


def page_with_source(source: str, name: str, refresh_seconds: float = 0) -> bytes:
    """A page that fetches the file from the server it comes from.

    Args:
      source: URL, relative to the page.
      refresh_seconds: after which the server is asked for a newer version; 0: never.
    """
    refresh = f' refresh="{refresh_seconds:g}"' if refresh_seconds else ""
    return _page(_Shown(name), connect="'self'", attributes=f' src="{html.escape(source)}"{refresh}', scene="")


@dataclass(frozen=True)
class _Shown:
    """What a page shows of itself: its title, which is text, and two parts that are HTML."""

    title: str
    head: str = ""
    poster: str = ""


def _head(about: About, title: str, link: Link | None) -> str:
    """What programs read that show a link to the page."""
    parts = [f"by {about.author}" if about.author else "", about.licence]
    description = about.description or ", ".join(["A scene in three dimensions", *filter(None, parts)])
    names = {"description": description}
    properties = {"og:type": "website", "og:title": title, "og:description": description}
    if link:
        properties |= {"og:url": link.address, "og:image": link.picture}
        names["twitter:card"] = "summary_large_image"
    if about.author:
        names["author"] = about.author
    rows = [("name", *said) for said in names.items()] + [("property", *said) for said in properties.items()]
    return "".join(f'<meta {kind}="{key}" content="{html.escape(_as_text(value))}">\n' for kind, key, value in rows)


def _image(poster: bytes | None) -> str:
    """A poster as the viewer takes it, and as it stands there before there is a viewer."""
    if poster is None:
        return ""
    return f'<img slot="poster" alt="" src="data:image/webp;base64,{base64.b64encode(poster).decode()}">'


def _as_text(name: str) -> str:
    """A name that may be no text, as names of files may, with escapes for what is none."""
    return name.encode("utf-8", "backslashreplace").decode()


def _page(shown: _Shown, *, connect: str, attributes: str, scene: str) -> bytes:
    script = _script()
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
        policy=policy,
        title=html.escape(_as_text(shown.title)),
        head=shown.head,
        style=_STYLE,
        attributes=attributes,
        poster=shown.poster,
        scene=scene,
        script=script,
    )
    return page.encode()


def _script() -> str:
    return files("vqrf.rendering.page").joinpath("viewer.js").read_text("utf-8")


def _hash(text: str) -> str:
    """The name by which a content security policy allows a text that stands in the page."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

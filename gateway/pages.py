"""What browsers are shown: pages, and the files in `web` that they are made of."""

from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles

from gateway import status

WEB = Path(__file__).parent / "web"

PAGE_HEADERS = {
    # Only what this gateway serves as files: nothing written into a page runs or styles anything,
    # and a page speaks to nobody else.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
        " font-src 'self'; connect-src 'self'; manifest-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-cache",
}

# On the chat page markup comes into being in one place only, the sanitiser: the browser refuses any
# other string that would become nodes or code.
_CHAT_POLICY = (
    f"{PAGE_HEADERS['Content-Security-Policy']};"
    " require-trusted-types-for 'script'; trusted-types dompurify"
)

_FILES = StaticFiles(directory=WEB)


async def index(request: Request) -> Response:
    """Show a browser the chat page, and tell programs where things are."""
    if "text/html" in request.headers.get("accept", ""):
        reply = page("index.html")
        reply.headers["Content-Security-Policy"] = _CHAT_POLICY
    else:
        reply = await status.index(request)
    reply.headers.add_vary_header("Accept")
    return reply


async def file(request: Request) -> Response:
    """Give a file that a page is made of; browsers ask again whether it is still the same."""
    reply = await _FILES.get_response(request.path_params["path"], request.scope)
    reply.headers["Cache-Control"] = "no-cache"
    return reply


async def docs(request: Request) -> Response:
    """Show what programs can do here, and let people try it."""
    return page("docs/index.html")


def page(name: str) -> Response:
    """Show a page in `web`."""
    return FileResponse(WEB / name, headers=PAGE_HEADERS)

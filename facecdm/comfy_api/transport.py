"""HTTP requests to one server: bounded in time and size, without redirects, repeated if that is safe."""

import asyncio
import time
from typing import Any
from urllib.parse import urlsplit

from ..documents import parse_json
from .errors import BadAnswer, ServerUnreachable

MEBI = 1 << 20


class Transport:
    """Use as an async context manager.

    url               URL of the server, without a trailing slash
    patience          seconds for which a request to an unreachable server is repeated
    answer_limit      largest size of an answer, bytes
    answer_seconds    time limit of a whole answer
    transfer_seconds  time limit of a whole upload or download
    """

    answer_seconds = 120.0
    transfer_seconds = 600.0

    def __init__(self, address: str, patience: float, answer_limit: int):
        """`address` is host:port or a URL. Raises ServerUnreachable if it is neither."""
        url = address if "://" in address else f"http://{address}"
        if not _is_address(url):
            raise ServerUnreachable(f"{address!r} is no server address: write host:port or http://host:port")
        self.url = url.rstrip("/")
        self.patience = patience
        self.answer_limit = answer_limit

    async def __aenter__(self) -> "Transport":
        import aiohttp

        tracing = aiohttp.TraceConfig()
        tracing.on_request_redirect.append(_refuse_redirect)  # ws_connect lacks allow_redirects
        self.session = aiohttp.ClientSession(trace_configs=[tracing])
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.session.close()

    async def json(self, method: str, path: str, **options: Any) -> Any:
        """The parsed answer. Raises the errors of `bytes`."""
        data = await self.bytes(method, path, **options)
        try:
            return parse_json(data)
        except ValueError as error:
            raise BadAnswer(f"{self.url}{path} did not answer in JSON ({error!s:.200}): is it a ComfyUI?") from error

    async def bytes(
        self,
        method: str,
        path: str,
        accept: tuple[int, ...] = (200,),
        limit: int | None = None,
        transfer: bool = False,
        **options: Any,
    ) -> bytes:
        """The answer of one request.

        GETs are repeated for `patience` seconds while the server is unreachable; POSTs only if the connection was
        refused, so that no request is executed twice.

        accept    HTTP status codes that are not errors
        limit     largest size, bytes; default: answer_limit
        transfer  whether a file is uploaded or downloaded

        Raises ServerUnreachable; BadAnswer for another status code, a larger answer, a transfer that takes too long.
        """
        import aiohttp

        give_up = time.monotonic() + self.patience
        seconds = self.transfer_seconds if transfer else self.answer_seconds
        options["timeout"] = aiohttp.ClientTimeout(total=seconds, sock_connect=10, sock_read=self.answer_seconds)
        while True:
            started = time.monotonic()
            try:
                return await self._request(method, path, accept, limit or self.answer_limit, options)
            except (aiohttp.ClientConnectionError, asyncio.TimeoutError, aiohttp.ClientPayloadError) as error:
                if transfer and time.monotonic() - started >= seconds:
                    raise BadAnswer(f"{self.url}{path} took longer than {seconds:g} s for one file") from error
                repeatable = method == "GET" or isinstance(error, aiohttp.ClientConnectorError)
                if not repeatable or time.monotonic() > give_up:
                    raise ServerUnreachable(
                        f"no ComfyUI answers at {self.url} ({error or type(error).__name__}): is it running?"
                    ) from error
                await asyncio.sleep(0.3)
            except aiohttp.ClientError as error:
                raise BadAnswer(f"{self.url}{path} did not answer as a web server does: {error!r:.300}") from error

    async def _request(self, method: str, path: str, accept: tuple[int, ...], limit: int, options: dict) -> bytes:
        async with self.session.request(method, self.url + path, allow_redirects=False, **options) as response:
            data = bytearray()
            async for chunk in response.content.iter_chunked(MEBI):
                data += chunk
                if len(data) > limit:
                    raise BadAnswer(f"{self.url}{path} answered with more than {limit / MEBI:.0f} MiB")
            if response.status not in accept:
                raise BadAnswer(f"{self.url}{path} answered {response.status}: {bytes(data[:200])!r}")
            return bytes(data)


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a bracket that is not closed, or a port that is none
        return False


async def _refuse_redirect(*_: Any) -> None:
    import aiohttp

    raise aiohttp.ClientError("the server redirects: only the given address is contacted")

"""An HTTP server of ours, running in a thread's event loop, and plain requests to it."""

import asyncio
import contextlib
import http.client
import threading


@contextlib.contextmanager
def served(server):
    """The server, started; stopped at the end, whatever happened. Its loop is `server.loop`."""
    server.loop = loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(server.start(), loop).result(60)
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def get(server, path, *, method="GET", host=None, headers=None, body=None):
    """The response, read to its end: status, headers (names in lower case), body."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        headers = {"Host": host, **(headers or {})} if host is not None else headers or {}
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
    finally:
        connection.close()

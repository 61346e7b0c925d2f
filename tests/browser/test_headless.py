import http.server
import threading

import pytest
from playwright.sync_api import Error


@pytest.fixture
def url():
    class Greeting(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<title>here</title>")

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Greeting) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_pages_of_this_machine_open(browser, url, tmp_path):
    page = browser(color_scheme="dark", viewport={"width": 480, "height": 320})
    page.goto(url)
    assert page.title() == "here"
    assert page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    assert page.evaluate("[innerWidth, innerHeight]") == [480, 320]
    (tmp_path / "page.html").write_text("<title>a file</title>")
    page.goto((tmp_path / "page.html").as_uri())
    assert page.title() == "a file"


def test_pages_of_other_machines_do_not(browser):
    page = browser()
    for address in ("http://192.0.2.1/", "https://example.org/"):
        with pytest.raises(Error, match="ERR_FAILED"):
            page.goto(address)

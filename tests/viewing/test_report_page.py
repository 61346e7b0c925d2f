import base64
import hashlib
import json
import re
from html.parser import HTMLParser

from visplay.viewing.report_data import describe_run
from visplay.viewing.report_page import render_report
from visplay.viewing.run_reader import RunReader
from written_run import HOSTILE, write_run


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.links = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href") and not value.startswith("#")]


def _page(tmp_path, text="How many?"):
    return render_report(describe_run(RunReader(write_run(tmp_path / "<b>run</b>", text))), "foot & more")


def test_the_page_needs_nothing_else(tmp_path):
    page = _page(tmp_path)
    tags = Tags()
    tags.feed(page)
    assert (tags.links, tags.tags.count("script"), tags.tags.count("link")) == ([], 2, 0)
    assert "http:" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "https:" not in page


def test_hostile_text_is_data(tmp_path):
    plain, hostile = Tags(), Tags()
    plain.feed(_page(tmp_path / "plain"))
    page = _page(tmp_path / "hostile", HOSTILE)
    hostile.feed(page)
    assert hostile.tags == plain.tags
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])
    assert data["questions"]["question"][1].startswith("</script><script>document.title='taken'</script>")
    assert "<title>" in page
    assert "&lt;b&gt;" in page
    assert "foot &amp; more" in page


def test_the_policy_names_the_only_script(tmp_path):
    page = _page(tmp_path)
    script = re.search(r"<script>(.*?)</script>", page, re.S)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in page

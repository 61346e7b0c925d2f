import json

import pytest
import yaml

from data.benchmark_tables import CONFIGS, FILE, DirectoryHub, mmmu
from data.rows import rows
from visplay.commands import prepare
from visplay.data.benchmarks.benchmark_sources import BenchmarkSource
from visplay.data.benchmarks.benchmark_suite import BenchmarkSuite
from visplay.data.benchmarks.downloads import Snapshot, download


class TestPrepare:
    def test_records_commit_and_hash_of_each_file(self, prepared):
        _, hub, directory = prepared
        record = json.loads((directory / "benchmarks.lock.json").read_text())
        assert record["zli12321/MMMU"] == {
            "revision": "main",
            "commit": "commit-1",
            "files": {FILE: hub.look_up("zli12321/MMMU", "main").files[FILE]},
            "patterns": ["data/test-*.parquet"],
        }
        assert len(record) == 5
        assert sorted(path.name for path in directory.iterdir()) == ["benchmarks.lock.json", "zli12321"]

    def test_downloads_once_and_keeps_to_the_commit(self, prepared):
        arguments, hub, directory = prepared
        assert len(hub.fetched) == 5  # four benchmarks share a file
        hub.commit = 2
        hub.put("zli12321/MMMU", FILE, mmmu().slice(1))
        asked = len(hub.asked)
        prepare.run(arguments, hub)
        assert (len(hub.fetched), len(hub.asked)) == (5, asked)
        (directory / "zli12321/MMMU" / FILE).unlink()
        with pytest.raises(SystemExit, match="at commit-1 with the SHA-256 .* what came has the SHA-256 .*not kept"):
            prepare.run(arguments, hub)
        assert not (directory / "zli12321/MMMU" / FILE).exists()

    @pytest.mark.parametrize("file", ["../../outside.parquet", "/outside.parquet", "data/../../outside.parquet"])
    def test_a_file_that_leads_out_of_its_directory_is_not_downloaded(self, tmp_path, file):
        class Hostile(DirectoryHub):
            def look_up(self, repo, revision):
                return Snapshot("commit-1", {file: None})

        hub = Hostile(tmp_path / "hub")
        with pytest.raises(ValueError, match=f"files: '{file}' of 'owner/name' leads out of its directory"):
            download(hub, tmp_path / "here", "owner/name", "main", ["*.parquet"])
        assert hub.fetched == []

    def test_what_was_interrupted_is_completed(self, tmp_path):
        class Interrupted(DirectoryHub):
            def fetch(self, repo, commit, file, directory):
                if file == "data/test-1.parquet" and not self.fetched[1:]:
                    self.fetched.append("interrupted")
                    raise ConnectionError
                return super().fetch(repo, commit, file, directory)

        hub = Interrupted(tmp_path / "hub")
        for part in range(3):
            hub.put("owner/shards", f"data/test-{part}.parquet", rows(2))
        suite = BenchmarkSuite((BenchmarkSource("shards", repo="owner/shards"),), str(tmp_path / "here"))
        with pytest.raises(ConnectionError):
            suite.download(hub)
        with pytest.raises(FileNotFoundError, match="run `visplay prepare`"):
            suite.open()
        suite.download(hub)
        assert hub.fetched == ["owner/shards/data/test-0.parquet", "interrupted"] + [
            f"owner/shards/data/test-{part}.parquet" for part in (1, 2)
        ]
        assert len(suite.open()[0]) == 6

    def test_a_wider_pattern_brings_the_rest_at_the_same_commit(self, tmp_path):
        hub = DirectoryHub(tmp_path / "hub")
        for part in range(2):
            hub.put("owner/shards", f"data/test-{part}.parquet", rows(2))
        one, all_of_it = (
            BenchmarkSuite((BenchmarkSource("shards", "owner/shards", files=files),), str(tmp_path / "here"))
            for files in ("*test-0.parquet", "*.parquet")
        )
        one.download(hub)
        with pytest.raises(FileNotFoundError, match="run `visplay prepare`"):
            all_of_it.open()
        all_of_it.download(hub)
        assert hub.asked == [("owner/shards", "main"), ("owner/shards", "commit-1")]
        assert hub.fetched == [f"owner/shards/data/test-{part}.parquet" for part in range(2)]
        assert [len(suite.open()[0]) for suite in (one, all_of_it)] == [2, 4]

    def test_another_revision_takes_the_place_of_the_former(self, prepared):
        _, hub, directory = prepared
        hub.commit = 2
        hub.put("zli12321/MMMU", FILE, mmmu().slice(1))
        suite = BenchmarkSuite((BenchmarkSource("mmmu", repo="zli12321/MMMU", revision="v2"),), str(directory))
        suite.download(hub)
        assert hub.asked[-1] == ("zli12321/MMMU", "v2")
        assert len(suite.open()[0]) == 6

    def test_update_goes_to_what_the_revision_is_now(self, prepared):
        arguments, hub, directory = prepared
        hub.commit = 2
        hub.put("zli12321/MMMU", FILE, mmmu().slice(1))
        prepare.run([*arguments, "--update", "--only", "mmmu"], hub)
        record = json.loads((directory / "benchmarks.lock.json").read_text())
        assert [record[repo]["commit"] for repo in ("zli12321/MMMU", "zli12321/mmstar")] == ["commit-2", "commit-1"]
        assert hub.fetched[5:] == [f"zli12321/MMMU/{FILE}"]

    def test_a_changed_file_is_rejected(self, prepared, suite):
        arguments, hub, directory = prepared
        path = directory / "zli12321/MMMU" / FILE
        content = bytearray(path.read_bytes())
        content[-20] ^= 1
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"files: .*test-00000-of-00001.parquet has the SHA-256 .* on record is "):
            suite.open()
        with pytest.raises(SystemExit, match="it is damaged or another version: delete it and run `visplay prepare`"):
            prepare.run(arguments, hub)
        path.unlink()
        prepare.run(arguments, hub)
        assert len(suite.open()) == 8

    def test_what_was_not_prepared_says_so(self, tmp_path):
        source = BenchmarkSource("mmmu", repo="zli12321/MMMU")
        with pytest.raises(
            FileNotFoundError, match="'mmmu' needs .* of 'zli12321/MMMU' at 'main' .*run `visplay prepare`"
        ):
            BenchmarkSuite((source,), str(tmp_path)).open()

    def test_another_revision_than_the_prepared_one(self, prepared):
        source = BenchmarkSource("mmmu", repo="zli12321/MMMU", revision="v2")
        with pytest.raises(FileNotFoundError, match="at 'v2'"):
            BenchmarkSuite((source,), str(prepared[2])).open()
        at_commit = BenchmarkSource("mmmu", repo="zli12321/MMMU", revision="commit-1", files="data/test-*.parquet")
        assert len(BenchmarkSuite((at_commit,), str(prepared[2])).open()[0]) == 7

    def test_the_table_it_prints(self, prepared, capsys):
        prepare.run([*prepared[0], "--only", "mmmu"], prepared[1])
        lines = capsys.readouterr().out
        assert "mmmu" in lines
        assert "no image (1)" in " ".join(lines.replace("│", " ").split())

    def test_refusals(self, prepared, tmp_path):
        arguments, hub, _ = prepared
        with pytest.raises(SystemExit, match="there is no data.init_args.benchmarks"):
            prepare.run(["--config", str(CONFIGS / "vllm.yaml")], hub)
        with pytest.raises(SystemExit, match=r"names: there is no benchmark \['mmu'\], only \['mmmu', "):
            prepare.run([*arguments, "--only", "mmu"], hub)
        misspelt = tmp_path / "misspelt.yaml"
        misspelt.write_text(yaml.safe_dump({"data": {"init_args": {"benchmarks": {"sources": [{"nam": "a"}]}}}}))
        with pytest.raises(SystemExit, match="(?s)^error: .*'nam' is not accepted"):
            prepare.run(["--config", str(misspelt)], hub)

    def test_no_file_matches(self, tmp_path):
        suite = BenchmarkSuite((BenchmarkSource("x", repo="zli12321/MMMU", files="*.csv"),), str(tmp_path / "here"))
        with pytest.raises(
            FileNotFoundError, match=r"no file of 'zli12321/MMMU' matches '\*.csv'; it has \['README.md', "
        ):
            suite.download(DirectoryHub(tmp_path / "hub"))

    def test_the_hub_s_own_hash_is_compared(self, tmp_path):
        class Damaged(DirectoryHub):
            def fetch(self, repo, commit, file, directory):
                path = super().fetch(repo, commit, file, directory)
                path.write_bytes(path.read_bytes()[:-1])
                return path

        suite = BenchmarkSuite((BenchmarkSource("mmmu", repo="zli12321/MMMU"),), str(tmp_path / "here"))
        with pytest.raises(ValueError, match="it was not kept"):
            suite.download(Damaged(tmp_path / "hub"))
        assert not list((tmp_path / "here").rglob("*.parquet"))

"""Against a real server where it counts, and a scripted one for its faults."""

import asyncio
import copy
import json
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from jsonargparse import ArgumentParser
from safetensors.torch import load_file

import server_rank
from helpers import plain_image
from live_bytes import LiveBytes
from two_ranks import run_ranks
from visplay.callbacks.engines import vllm_server as module
from visplay.callbacks.engines.engine import RolloutEngine, RolloutError, WrongWeightsError
from visplay.callbacks.engines.vllm_server import VLLMServerRollout
from visplay.callbacks.engines.vllm_server_client import RequestLimits, Server
from visplay.callbacks.engines.vllm_server_transfer import FileSender, NCCLSender, TransferSettings, _WeightRequests
from visplay.callbacks.engines.vllm_server_worker import RequireToken, open_weights
from visplay.tiny import ANSWER
from visplay.types import Prompt, Sampling, derive_seed
from vllm_server import free_port, serve_base

TOKEN, VARIABLE = "a-token-of-the-tests", "VISPLAY_TEST_TOKEN"


@pytest.fixture(scope="module")
def urls(tmp_path_factory):
    """Two servers with a token, and their children, killed at the end."""
    worker = "visplay.callbacks.engines.vllm_server_worker"
    size = {"shortest_edge": 3136, "longest_edge": 12544}
    arguments = [
        *("--enable-scale-out", "--logprobs-mode", "processed_logprobs"),
        *("--limit-mm-per-prompt", '{"image": 1, "video": 0}', "--mm-processor-kwargs", json.dumps({"size": size})),
        *("--worker-extension-cls", f"{worker}.ServerWorker", "--middleware", f"{worker}.RequireToken"),
    ]
    weights = str(tmp_path_factory.mktemp("weights"))
    environment = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_API_KEY": TOKEN, "VISPLAY_WEIGHTS_DIR": weights}
    with ExitStack() as stack, ThreadPoolExecutor() as pool:

        def start(number):
            directory = tmp_path_factory.mktemp(f"server-{number}")
            return stack.enter_context(serve_base(directory, *arguments, environment=environment))

        yield list(pool.map(start, range(2)))


@pytest.fixture(scope="module")
def url(urls):
    return urls[0]


@pytest.fixture
def connect(monkeypatch):
    """Make engines that are closed at the end."""
    monkeypatch.setenv(VARIABLE, TOKEN)
    made = []

    def make(url, **settings):
        settings = {"limits": RequestLimits(request_seconds=60, retries=1, wait_seconds=0)} | settings
        made.append(VLLMServerRollout(url, **settings))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


@pytest.fixture
def engine(url, connect):
    return connect(url, token_variable=VARIABLE, transfer=TransferSettings(part_mib=1))


@pytest.fixture
def policy(fresh_base):
    fresh_base.limit_pixels(3136, 12544)  # of the server
    return fresh_base


def _prompts(vlm):
    images = [plain_image(40), plain_image(90, (100, 150)), None, plain_image(7, (112, 112))]
    return [vlm.encode(f"p{i}", ANSWER, image, question="Is it red?") for i, image in enumerate(images)]


def _tokens(groups):
    return [[c.token_ids for c in group] for group in groups]


def _gap(vlm, prompts, groups, temperature=1.0):
    """Largest difference between the engine's log-probabilities and those of the training forward."""
    gaps = []
    for prompt, group in zip(prompts, groups, strict=True):
        for c in group:
            ids = torch.tensor(c.token_ids)[None, None]
            with torch.no_grad():
                logps, _ = vlm.logps([prompt], ids, torch.ones_like(ids, dtype=torch.bool), temperature=temperature)
            gaps.append((logps[0, 0] - torch.tensor(c.logps)).abs().max().item())
    return max(gaps)


def _perturb(vlm, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in vlm.model.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.1 * weight.std().clamp_min(0.1))
    vlm.version += 1


def test_samples_repeat_and_do_not_depend_on_order(engine, policy):
    prompts, sampling = _prompts(policy), Sampling(3, 8, seed=5)
    expected = _tokens(engine.generate(policy, prompts, sampling))
    assert _tokens(engine.generate(policy, prompts, sampling)) == expected
    assert _tokens(engine.generate(policy, prompts[::-1], sampling))[::-1] == expected
    assert _tokens(engine.generate(policy, prompts[1:2], Sampling(2, 8, seed=5))) == [expected[1][:2]]
    assert _tokens(engine.generate(policy, prompts, Sampling(3, 8, seed=6))) != expected


def test_two_policies_take_turns_and_every_weight_arrives(engine, policy):
    other = copy.deepcopy(policy)
    other.name = "other"
    prompts, sampling = _prompts(policy), Sampling(2, 8, seed=1)
    texts = []
    for turn in range(2):
        for each in (policy, other):
            groups = engine.generate(each, prompts, sampling)
            assert engine.loaded == (each.name, each.version)
            assert _gap(each, prompts, groups) <= 1e-4
            texts.append(_tokens(groups))
        assert _gap(other, prompts, groups) <= 1e-4
        _perturb(policy, turn)
        assert _gap(policy, prompts, groups) > 1e-2
    assert texts[0] == texts[1] == texts[3]  # ``other`` never changed
    assert texts[2] != texts[0]


def test_log_probabilities_are_those_before_truncation(engine, policy):
    prompts = _prompts(policy)
    groups = engine.generate(policy, prompts, Sampling(2, 8, temperature=0.7, top_p=0.8, top_k=5, seed=3))
    assert _gap(policy, prompts, groups, temperature=0.7) <= 1e-4


def test_completions_end_at_a_stop_token_and_avoid_control_tokens(engine, policy):
    sampling = Sampling(8, 6, temperature=2.0, seed=2)
    completions = [c for group in engine.generate(policy, _prompts(policy), sampling) for c in group]
    for c in completions:
        stops = [token in policy.stop_token_ids for token in c.token_ids]
        assert stops[-1] == c.finished
        assert not any(stops[:-1])
        assert c.finished or len(c.token_ids) == 6
        assert not set(c.token_ids) & set(policy.banned_token_ids.tolist())
    greedy = engine.generate(policy, _prompts(policy), Sampling(3, 4, temperature=0.0))
    assert [len(set(_tokens([group])[0])) for group in greedy] == [1] * len(greedy)
    assert [len(group) for group in greedy] == [3] * len(greedy)


@pytest.mark.parametrize(
    ("skipped", "reported"),
    [("q_proj.weight", "qkv_proj.weight"), ("embed_tokens.weight", "embed_tokens.weight"), ("merger.ln_q", "ln_q")],
)
def test_a_load_that_skips_a_tensor_is_caught(engine, policy, monkeypatch, skipped, reported):
    engine.load(policy)
    _perturb(policy, 5)
    whole = module._typed
    monkeypatch.setattr(module, "_typed", lambda *given: ((n, w) for n, w in whole(*given) if skipped not in n))
    with pytest.raises(WrongWeightsError, match=reported):
        engine.generate(policy, _prompts(policy), Sampling(1, 2))
    monkeypatch.undo()


def test_a_load_that_breaks_off_can_be_made_again(engine, policy, monkeypatch):
    prompts = _prompts(policy)
    _perturb(policy, 6)
    with monkeypatch.context() as patch:
        patch.setattr("visplay.callbacks.engines.vllm_server_transfer.save_file", lambda part, path: None)
        with pytest.raises(RolloutError, match=r"/collective_rpc, failed: status 500"):
            engine.generate(policy, prompts, Sampling(1, 2))
    assert engine.loaded is None
    assert _gap(policy, prompts, engine.generate(policy, prompts, Sampling(1, 4))) <= 1e-4


def test_weights_that_somebody_changed_are_sent_again(engine, policy, connect, url):
    prompts, sampling = _prompts(policy), Sampling(2, 6, seed=4)
    expected = _tokens(engine.generate(policy, prompts, sampling))
    stranger = copy.deepcopy(policy)
    _perturb(stranger, 9)
    connect(url, token_variable=VARIABLE).load(stranger)
    assert _tokens(engine.generate(policy, prompts, sampling)) == expected


def test_what_is_begun_is_sampled_from_the_weights_of_then(engine, policy):
    prompts, sampling = _prompts(policy), Sampling(3, 8, seed=5)
    expected = engine.generate(policy, prompts, sampling)
    wait = engine.begin(policy, prompts, sampling)
    _perturb(policy, 3)
    assert wait() == expected
    assert engine.generate(policy, prompts, sampling) != expected
    assert engine.begin(policy, [], sampling)() == []


def test_no_path_answers_without_the_token(url, connect, base):
    with pytest.raises(RolloutError, match="it wants a token"):
        connect(url).generate(base, _prompts(base), Sampling(1, 2))
    for path in ("weight_info", "v1/models", "server_info"):
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{url}/{path}", timeout=30)


def test_a_server_that_does_not_fit(url, connect, policy, monkeypatch):
    with pytest.raises(RolloutError, match="serves '.*base' and not 'another'"):
        connect(url, token_variable=VARIABLE, model="another").load(policy)
    with pytest.raises(RolloutError, match="VISPLAY_WEIGHTS_DIR=/elsewhere"):
        connect(url, token_variable=VARIABLE, transfer=TransferSettings(directory="/elsewhere")).load(policy)
    with pytest.raises(RolloutError, match=r"'backend': None.*vllm serve"):
        connect(url, token_variable=VARIABLE, transfer=TransferSettings("nccl")).load(policy)
    with monkeypatch.context() as patch:
        patch.setattr(type(policy), "context_tokens", 4096)
        with pytest.raises(RolloutError, match="context of 1024 tokens and 'policy' one of 4096"):
            connect(url, token_variable=VARIABLE).load(policy)
    policy.limit_pixels(3136, 3136)
    with pytest.raises(RolloutError, match=r"vLLM reads \d+ tokens and the policy \d+"):
        connect(url, token_variable=VARIABLE).generate(policy, _prompts(policy), Sampling(1, 2))


class Script:
    """What the scripted server says of the weights and of each request for completions, in turn.

    Args:
        steps: Functions of a request and of the label of the weights, the last one for all further requests.
        dtype: Of its weights.
        directory: Where it reads them.
        broken: The method of its workers that fails when it is called a second time.
    """

    def __init__(self, *steps, dtype="float32", directory="/nowhere", broken=None):
        self.steps = list(steps)
        self.described = {"dtype": dtype, "logprobs_mode": "processed_logprobs", "backend": "nccl", "can_report": True}
        self.described["directory"] = str(directory)
        self.broken = broken
        self.label = ""
        self.asked = []
        self.told = []

    def answer(self, path, body):
        if path == "/v1/models":
            return {"data": [{"id": "base", "max_model_len": 4096}]}
        if path == "/get_world_size":
            return {"world_size": 2}
        if path == "/collective_rpc":
            self.told.append(body["method"])
            return 500 if self.told.count(self.broken) > 1 else {"results": [self.described]}
        if path == "/update_weight_version":
            self.label = body["new_version"]
        if path != module._GENERATE:
            self.told.append((path, body))
            return {}
        self.asked.append(body)
        step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        return step(body, self.label)


def whole(body, label, reason="length", tokens=(5, 6)):
    content = [{"token_id": token, "logprob": -1.0} for token in tokens]
    span = [{"version": label, "start": 0, "end": len(tokens)}]
    choices = [
        {"index": i, "finish_reason": reason, "token_ids": list(tokens), "logprobs": {"content": content}}
        for i in reversed(range(body["sampling_params"]["n"]))
    ]
    usage = {"prompt_tokens": len(body["token_ids"])}
    return {"choices": [choice | {"weight_versions": span} for choice in choices], "usage": usage}


def aborted(body, label):
    return whole(body, label, reason="abort")


def stale(body, label):
    return whole(body, "default")


def broken(body, label):
    return 500


def hanging(body, label):
    time.sleep(1.5)
    return whole(body, label)


@contextmanager
def scripted(script):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.do_POST()

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "null")
            answer = script.answer(self.path.partition("?")[0], body)
            text = b"engine is dead" if answer == 500 else json.dumps(answer).encode()
            try:
                self.send_response(500 if answer == 500 else 200)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)
            except OSError:
                return  # the client gave up

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class NoSender:
    def send(self, weights):
        pass

    def close(self):
        pass


def _generate(connect, monkeypatch, base, *scripts, prompts=None, **limits):
    """Ask servers that follow scripts, without weights; what comes back."""
    monkeypatch.setattr(VLLMServerRollout, "_make_sender", lambda *given: NoSender())
    limits = RequestLimits(**{"retries": 2, "wait_seconds": 0} | limits)
    prompts = prompts or [Prompt(key, (3, 4, 5), ()) for key in "ab"]
    with ExitStack() as stack:
        urls = [stack.enter_context(scripted(script)) for script in scripts]
        engine = connect(urls, transfer=TransferSettings("nccl"), limits=limits, verify=False)
        try:
            return engine.generate(base, prompts, Sampling(2, 8, seed=7))
        finally:
            engine.close()


def test_a_request_that_failed_is_made_again_with_its_seed(connect, monkeypatch, base):
    script = Script(aborted, broken, whole)
    groups = _generate(connect, monkeypatch, base, script)
    assert [[c.token_ids for c in group] for group in groups] == [[(5, 6)] * 2] * 2
    assert [c.finished for group in groups for c in group] == [False] * 4
    seeds = [body["sampling_params"]["seed"] for body in script.asked]
    assert len(seeds) == 4
    assert set(seeds) == {derive_seed(7, key) >> 1 for key in "ab"}


@pytest.mark.parametrize(
    ("step", "limits", "message"),
    [
        (broken, {}, "failed 3 times: status 500: engine is dead"),
        (aborted, {}, r"failed 3 times: it ended a request early \(abort\)"),
        (hanging, {"retries": 0, "request_seconds": 0.3}, r"no answer in time \(ReadTimeout; request_seconds=0.3"),
    ],
)
def test_failures_are_bounded(connect, monkeypatch, base, step, limits, message):
    with pytest.raises(RolloutError, match=message):
        _generate(connect, monkeypatch, base, Script(step), **limits)


@contextmanager
def _connected(connect, monkeypatch, script, **limits):
    """An engine of a scripted server, which is sent no weights."""
    monkeypatch.setattr(VLLMServerRollout, "_make_sender", lambda *given: NoSender())
    limits = RequestLimits(**{"retries": 0, "wait_seconds": 0} | limits)
    with scripted(script) as url:
        engine = connect(url, transfer=TransferSettings("nccl"), limits=limits, verify=False)
        yield engine
        engine.close()


def test_what_is_begun_is_asked_while_the_trainer_goes_on(connect, monkeypatch, base):
    answered = threading.Event()

    def waiting(body, label):
        assert answered.wait(30)
        return whole(body, label)

    prompts = [Prompt(key, (3, 4, 5), ()) for key in "ab"]
    with _connected(connect, monkeypatch, Script(waiting)) as engine:
        wait = engine.begin(base, prompts, Sampling(2, 8, seed=7))  # else it would wait for ever
        answered.set()
        assert [[c.token_ids for c in group] for group in wait()] == [[(5, 6)] * 2] * 2


def test_weights_that_are_lost_meanwhile_are_not_sent_again(connect, monkeypatch, base):
    script = Script(stale)
    with _connected(connect, monkeypatch, script) as engine:
        wait = engine.begin(base, [Prompt("a", (3, 4, 5), ())], Sampling(2, 8))
        with pytest.raises(WrongWeightsError, match=r"answers with weights \['default'\] where it was sent"):
            wait()
    assert len(script.asked) == 1


def test_a_run_that_fails_asks_no_further(connect, monkeypatch, base):
    script = Script(hanging)
    with _connected(connect, monkeypatch, script, concurrent_requests=2) as engine:
        engine.begin(base, [Prompt(key, (3, 4, 5), ()) for key in "abcdefgh"], Sampling(2, 8))
        engine.on_exception(None, None, RuntimeError())
    assert len(script.asked) <= 2


def test_answers_of_other_weights_are_never_used(connect, monkeypatch, base):
    script = Script(stale, whole)
    assert len(_generate(connect, monkeypatch, base, script)) == 2
    sent = f"{base.name}/{base.version}/"
    with pytest.raises(WrongWeightsError, match=rf"answers with weights \['default'\] where it was sent '{sent}"):
        _generate(connect, monkeypatch, base, Script(stale))


def test_answers_that_do_not_fit_the_request(connect, monkeypatch, base):
    def short(body, label):
        answer = whole(body, label)
        return answer | {"choices": answer["choices"][1:]}

    def mixed(body, label):
        answer = whole(body, label)
        answer["choices"][0]["token_ids"] = [5, 9]
        return answer

    with pytest.raises(RolloutError, match="prompt 'a': 1 of 2 completions came back"):
        _generate(connect, monkeypatch, base, Script(short))
    with pytest.raises(RolloutError, match="log-probabilities of other tokens"):
        _generate(connect, monkeypatch, base, Script(mixed))


def test_a_server_that_is_not_there(connect, base):
    port = free_port()
    with pytest.raises(RolloutError) as caught:
        connect(f"http://127.0.0.1:{port}").generate(base, _prompts(base), Sampling(1, 2))
    message = str(caught.value)
    assert f"http://127.0.0.1:{port}" in message
    assert "failed 2 times: no answer (ConnectError" in message
    assert f"vllm serve {base.path} --host 127.0.0.1 --port {port} --enable-scale-out" in message


def test_a_token_is_needed_away_from_this_machine(monkeypatch):
    for url in ("http://10.0.0.7:8000", "https://rollouts.example"):
        with pytest.raises(ValueError, match=f"token_variable: {url} is not on this machine"):
            VLLMServerRollout(url)
    with pytest.raises(ValueError, match="must not carry a user") as caught:
        VLLMServerRollout("http://me:hidden@127.0.0.1")
    assert "hidden" not in str(caught.value)
    with pytest.raises(ValueError, match="url: 'file:///etc' must look like"):
        VLLMServerRollout("file:///etc")
    monkeypatch.delenv(VARIABLE, raising=False)
    engine = VLLMServerRollout("http://10.0.0.7:8000", token_variable=VARIABLE)
    with pytest.raises(ValueError, match=f"token_variable: the environment variable '{VARIABLE}' must hold"):
        engine._connected  # noqa: B018
    monkeypatch.setenv(VARIABLE, TOKEN)
    assert engine._connected[0].url == "http://10.0.0.7:8000"
    assert TOKEN not in f"{vars(engine)} {vars(engine._connected[0])} {engine.state_dict()}"
    engine.close()


def test_a_server_whose_weights_anybody_may_change_is_rejected(connect, monkeypatch, base):
    monkeypatch.setattr(module, "is_loopback", lambda url: False)
    with pytest.raises(RolloutError, match="lets anybody change its weights"):
        _generate(connect, monkeypatch, base, Script(whole))


def test_prompts_are_spread_over_servers_with_those_about_one_image_together(connect, monkeypatch, base):
    scripts = [Script(whole), Script(lambda body, label: whole(body, label, tokens=(7,)))]
    image = plain_image(40)
    about = [base.encode(f"i{i}", ANSWER, image, question=f"Is it {i}?") for i in range(3)]
    alone = [Prompt(f"a{i}", (3, 4, 5), ()) for i in range(5)]
    monkeypatch.setattr(module, "check_length", lambda *given: None)  # images are not expanded here
    groups = _generate(connect, monkeypatch, base, *scripts, prompts=[*about, *alone])
    seeds = [{body["sampling_params"]["seed"] for body in script.asked} for script in scripts]
    assert sorted(map(len, seeds)) == [3, 5]
    served = [next(n for n in range(2) if derive_seed(7, p.key) >> 1 in seeds[n]) for p in [*about, *alone]]
    assert len({*served[:3]}) == 1
    assert [group[0].token_ids for group in groups] == [[(5, 6), (7,)][server] for server in served]
    (label,) = {script.label for script in scripts}
    assert label.startswith(f"{base.name}/{base.version}/")
    assert [[path for path, _ in script.told[1:]] for script in scripts] == [
        ["/pause", "/update_weight_version", "/resume"]
    ] * 2


def test_an_error_names_the_server(connect, monkeypatch, base):
    with pytest.raises(RolloutError, match=r"http://127.0.0.1:\d+, /inference/v1/generate, failed 3 times: status 500"):
        _generate(connect, monkeypatch, base, Script(whole), Script(broken))
    with pytest.raises(RolloutError, match=r"have weights of \['torch.float32', 'torch.bfloat16'\]; give all one"):
        _generate(connect, monkeypatch, base, Script(whole), Script(whole, dtype="bfloat16"))


def test_one_of_two_servers_that_lost_its_weights_is_sent_them_again(connect, monkeypatch, base):
    scripts = Script(whole), Script(stale, whole)
    assert len(_generate(connect, monkeypatch, base, *scripts)) == 2
    assert [len(script.asked) for script in scripts] == [1, 2]


def test_workers_of_several_servers_are_one_group_with_the_trainer():
    with scripted(first := Script(whole)) as one, scripted(second := Script(whole)) as other:
        servers = [Server(url, None, RequestLimits()) for url in (one, other)]
        requests = _WeightRequests(servers)
        requests.init_weight_transfer_engine({"rank_offset": 1, "world_size": requests.group_size})
        for server in servers:
            server.close()
    assert requests.group_size == 5
    offsets = [script.told[0][1]["init_info"]["rank_offset"] for script in (first, second)]
    assert offsets == [1, 3]


def test_vllms_sender_is_told_what_it_will_be_given(monkeypatch, base):
    sent = []

    class Sender:
        def __init__(self, init, client, source):
            assert init.world_size == 3
            self.source = source

        def send_weights(self):
            announced = [(each.name, each.dtype, each.shape) for each in self.source.metadata()]
            sent.extend((name, weight.dtype, tuple(weight.shape)) for name, weight in self.source)
            assert announced == sent

    monkeypatch.setattr("vllm.distributed.weight_transfer.WeightTransferTrainerFactory.trainer_init", Sender)
    with scripted(Script(whole)) as url:
        server = Server(url, None, RequestLimits())
        sender = NCCLSender([server], TransferSettings("nccl"), base.weight_shapes(), torch.bfloat16)
        sender.send(module._typed(base.weights(), torch.bfloat16))
        server.close()
    assert len(sent) == len(base.weight_shapes())


def test_files_of_weights_are_read_by_all_servers_and_one_at_a_time(tmp_path):
    """The servers' directories are their own, and no more than a part and the next tensor is alive."""
    found = []

    class Reader:
        def __init__(self, name):
            self.directory = tmp_path / name

        def call_workers(self, method, *names):
            found.extend(load_file(self.directory / name) for name in names)

    readers, weights = [Reader("a"), Reader("b")], {f"w{i}": torch.full((64, 1024), float(i)) for i in range(8)}
    sender = FileSender(readers, [reader.directory for reader in readers], part_bytes=2**19)
    with LiveBytes(weights.values()) as live:
        sender.send((name, weight.clone()) for name, weight in weights.items())
    assert live.peak == 2**19 + 2**18
    assert [sorted(part) for part in found[::2]] == [["w0", "w1"], ["w2", "w3"], ["w4", "w5"], ["w6", "w7"]]
    assert all(part[name].equal(weights[name]) for part in found for name in part)
    assert len(found) == 8
    assert not list(tmp_path.glob("*/*"))


@pytest.mark.timeout(300)
def test_two_ranks_share_two_servers(urls, connect, tmp_path, monkeypatch):
    """Together they sample what one rank does, from shards too; what one of them meets with ends both."""
    (tmp_path / "weights").mkdir()
    scripts = {
        "sampling": Script(broken, directory=tmp_path / "weights"),
        "loading": Script(whole, directory=tmp_path / "weights", broken="visplay_load_file"),
    }
    monkeypatch.setenv(VARIABLE, TOKEN)
    with ExitStack() as stack:
        failing = {name: stack.enter_context(scripted(script)) for name, script in scripts.items()}
        settings = {"urls": urls, "token_variable": VARIABLE, "broken": failing}
        monkeypatch.setenv(server_rank.SETTINGS, json.dumps(settings))
        first, second = run_ranks(Path(server_rank.__file__), tmp_path, timeout_seconds=240)
    alone, together = first["alone"], (first["together"], second["together"])
    halves = zip(*(said["first"] for said in together), strict=True)
    assert [group for pair in halves for group in pair] == alone["first"]
    assert together[0]["second"] == []
    assert together[1]["second"] == alone["second"] != alone["first"]
    for said in (alone, *together):
        assert f"{failing['sampling']}, /inference/v1/generate, failed: status 500: engine is dead" in said["sampling"]
        assert f"{failing['loading']}, /collective_rpc, failed: status 500: engine is dead" in said["loading"]


@pytest.mark.parametrize("given", [[], ["http://127.0.0.1:1"] * 2])
def test_addresses_are_given_and_differ(given):
    with pytest.raises(ValueError, match=r"url: .* must be the addresses of one or several servers, all different"):
        VLLMServerRollout(given)


def test_a_missing_client_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(ImportError, match=r"install visplay\[vllm\]"):
        Server("http://127.0.0.1:1", None, RequestLimits())


def test_every_setting_is_a_key_of_the_configuration():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(RolloutEngine, "rollout")
    settings = {
        "url": ["http://127.0.0.1:8000"],
        "token_variable": VARIABLE,
        "transfer": {"backend": "nccl", "port": 29600},
        "limits": {"concurrent_requests": 8, "request_seconds": 30},
    }
    path = "visplay.callbacks.engines.vllm_server.VLLMServerRollout"
    parsed = parser.parse_object({"rollout": {"class_path": path, "init_args": settings}})
    engine = parser.instantiate_classes(parsed).rollout
    assert engine.transfer == TransferSettings("nccl", port=29600)
    assert engine.limits == RequestLimits(concurrent_requests=8, request_seconds=30)
    for name, value in {"retries": -1, "concurrent_requests": 0, "request_seconds": 0}.items():
        with pytest.raises(ValueError, match=f"{name}: {value}"):
            RequestLimits(**{name: value})
    with pytest.raises(ValueError, match="part_mib: 0"):
        TransferSettings(part_mib=0)


def test_a_file_of_weights_lies_in_the_directory(tmp_path):
    (tmp_path / "inside").mkdir()
    (tmp_path / "outside.safetensors").touch()
    (tmp_path / "inside" / "link.safetensors").symlink_to(tmp_path / "outside.safetensors")
    (tmp_path / "inside" / "good.safetensors").touch()
    assert open_weights(tmp_path / "inside", "good.safetensors").name == "good.safetensors"
    for name in ("../outside.safetensors", str(tmp_path / "outside.safetensors"), "good.pt"):
        with pytest.raises(ValueError, match="must be the plain name"):
            open_weights(tmp_path / "inside", name)
    with pytest.raises(ValueError, match="must be a regular file"):
        open_weights(tmp_path / "inside", "link.safetensors")


def _statuses(app, headers, path="/collective_rpc"):
    sent = []

    async def send(message):
        sent.append(message.get("status"))

    asyncio.run(app({"type": "http", "path": path, "headers": headers}, None, send))
    return sent


def test_the_guard_of_a_server(monkeypatch):
    async def inner(scope, receive, send):
        await send({"status": 200})

    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    with pytest.raises(ValueError, match="VLLM_API_KEY: the server's environment must hold a token"):
        RequireToken(inner)
    monkeypatch.setenv("VLLM_API_KEY", TOKEN)
    guard = RequireToken(inner)
    assert _statuses(guard, [(b"authorization", f"Bearer {TOKEN}".encode())]) == [200]
    assert _statuses(guard, [(b"authorization", b"Bearer wrong")])[0] == 401
    assert _statuses(guard, [])[0] == 401
    assert _statuses(guard, [], "/health") == [200]


def test_the_page_shows_the_command(base):
    page = (Path(__file__).parents[3] / "docs" / "external_engine.md").read_text()
    url = "https://rollouts.example"
    command = VLLMServerRollout(url, token_variable=VARIABLE).start_command(base, url)
    assert "--host 0.0.0.0" in command
    for flag in (word for word in command.split() if word.startswith("--")):
        assert flag in page, flag

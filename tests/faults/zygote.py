"""A process that has imported everything and forks: a run in 0.1 s instead of the 15 s of CPU that the imports take.

Started as `python -m tests.faults.zygote SOCKET`. What is forked is the real command line, or the real worker of Ray
(by way of `fork_client.py`); only the imports are shared. It starts no thread and opens no store before it forks.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import ctypes
import gc
import json
import math
import os
import runpy
import select
import shutil
import signal
import socket
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

PR_SET_PDEATHSIG = 1
MAX_REQUEST = 1 << 20


def import_everything() -> None:
    import aiobotocore.session  # type: ignore[import-untyped] # noqa: F401
    import diffusers  # type: ignore[import-untyped] # noqa: F401
    import s3fs  # type: ignore[import-untyped] # noqa: F401
    import torch
    from tqdm import tqdm  # type: ignore[import-untyped]

    import promptmill.jobs.cli
    import promptmill.jobs.commands
    import promptmill.jobs.export
    import promptmill.jobs.report
    import promptmill.jobs.retry
    import promptmill.jobs.run
    import promptmill.jobs.score
    import promptmill.jobs.status
    import promptmill.pipeline.models.clip.encoder
    import promptmill.pipeline.models.diffusion.generator  # noqa: F401
    import tests.models.tiny  # noqa: F401

    torch.set_num_threads(1)
    tqdm.monitor_interval = 0  # it would start a thread


def warm_up() -> None:
    """Load and use a model once: half of what a library imports, it imports then."""
    from promptmill.pipeline.models.catalog.clips import resolve_clip
    from promptmill.pipeline.models.catalog.resolve import resolve_model
    from promptmill.pipeline.models.load import load_embedder, load_generator
    from promptmill.schemas.generation import Generation, Model
    from promptmill.schemas.plan import Sample

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build(folder)
        sample = Sample("id", "prompt", 0, 0, 0, "red circle", "", "red circle")
        for model in ("sd", "sd-unsafe"):
            generator = load_generator(resolve_model(Model(path=str(folder / model)), "model"), threads=1)
            settings = Generation(num_inference_steps=1)
            generator.prepare([sample], settings)
            made = generator.generate([sample], settings, lambda: None)
        scorer = load_embedder(resolve_clip(f"local-dir:{folder / 'clip'}", "score"), threads=1)
        scorer.prepare(["red circle"])
        scorer.cosines([made[0].pixels], ["red circle"])
    assert "ray" not in sys.modules  # it reads its environment while it is imported, and that is each fork's own
    assert threading.active_count() == 1, threading.enumerate()  # a thread would not be there in the forks


def serve(address: str) -> Callable[[], None]:
    """Never returns in the server; in each fork it returns what the fork is to do."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    waker, waked = socket.socketpair()
    waked.setblocking(False)
    signal.set_wakeup_fd(waked.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    clients: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([listener, waker], [], [])
        if waker in ready:
            waker.recv(4096)
            _report_ends(clients)
        if listener in ready:
            client, _ = listener.accept()
            request, descriptors = _receive(client)
            pid = os.fork()
            if pid == 0:
                for other in (listener, waker, waked, client, *clients.values()):
                    other.close()
                return _become(request, descriptors)
            for descriptor in descriptors:
                os.close(descriptor)
            clients[pid] = client
            client.sendall(f"{pid}\n".encode())


def _report_ends(clients: dict[int, socket.socket]) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        client = clients.pop(pid)
        with contextlib.suppress(OSError):  # nobody asks any more
            client.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
        client.close()


def _receive(client: socket.socket) -> tuple[dict[str, Any], list[int]]:
    descriptors = array.array("i")
    size = socket.CMSG_LEN(3 * descriptors.itemsize)
    data, ancillary, _, _ = client.recvmsg(MAX_REQUEST, size)
    for _, _, content in ancillary:
        descriptors.frombytes(content)
    while not data.endswith(b"\n"):
        data += client.recv(MAX_REQUEST)
    return json.loads(data), list(descriptors)


def _become(request: dict[str, Any], descriptors: list[int]) -> Callable[[], None]:
    """Environment, folder and files as asked for."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    for target, descriptor in enumerate(descriptors):
        os.dup2(descriptor, target)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["folder"])
    sys.argv = request["arguments"]
    # tqdm's own is a semaphore that all forks share: one that is killed while it draws would stop all others.
    tqdm.set_lock(threading.RLock())
    if os.environ.get("PROMPTMILL_TEST_FAULTY"):
        from tests.faults.faulty import install

        install()
    return COMMANDS[request["command"]]


def run_cli() -> None:
    from promptmill.jobs.cli import main

    main()


def run_script() -> None:
    sys.orig_argv = [sys.executable, *sys.argv]
    runpy.run_path(sys.argv[0], run_name="__main__")


def build_models() -> None:
    build(Path(sys.argv[1]))


def build(folder: Path) -> None:
    from transformers import CLIPTextModel

    from tests.models import tiny

    tiny.build_sd15(folder / "sd")
    tiny.build_sd15(folder / "sd-unsafe", **tiny.safety_parts())
    tiny.build_clip(folder / "clip")
    text_encoder = CLIPTextModel(tiny.text_config())
    text_encoder.get_input_embeddings().weight.data[tiny.tokenizer(8).convert_tokens_to_ids("blurry")] = math.nan
    tiny.build_sd15(folder / "sd-nan", text_encoder=text_encoder)
    shutil.copytree(folder / "sd", folder / "sd-broken")
    config = folder / "sd-broken" / "unet" / "config.json"
    config.write_text(config.read_text().replace('"cross_attention_dim": 32', '"cross_attention_dim": 24'))


COMMANDS: dict[str, Callable[[], None]] = {"cli": run_cli, "script": run_script, "build": build_models}


def end_quickly(run: Callable[[], None]) -> None:
    """As the interpreter ends, but without taking apart a million objects, most of a short run's time."""
    code: Any = 1
    try:
        run()
        code = 0
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


if __name__ == "__main__":
    import_everything()
    warm_up()
    gc.collect()
    gc.freeze()  # a collection in a fork would copy every page it looks at
    end_quickly(serve(sys.argv[1]))

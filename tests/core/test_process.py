"""What every child process gets and what is said of its end."""

from __future__ import annotations

from modules.core.process import child_environment, how_it_ended


def test_secrets_stay_behind():
    environ = {
        "PATH": "/bin", "LC_ALL": "C", "CUDA_VISIBLE_DEVICES": "0", "HF_TOKEN": "s", "PADDOCK_API_KEY": "s", "HF_HUB_TOKEN": "s",
        "PYTHON_SECRET": "s", "AWS_SESSION": "s", "OMP_NUM_THREADS": "1", "OPENAI_API_KEY": "s", "PYTHONPATH": "/x",
    }  # fmt: skip
    kept = child_environment(environ)
    assert "s" not in kept.values()
    assert {"PATH", "LC_ALL", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "PYTHONPATH", "GGML_NO_BACKTRACE"} <= kept.keys()


def test_ends_in_words():
    assert how_it_ended(3) == "exit status 3"
    assert how_it_ended(-11) == "killed by signal 11, SIGSEGV, a fault in native code"
    assert how_it_ended(-4000) == "killed by signal 4000, unknown"


def test_only_a_child_that_may_reach_the_outside_learns_the_way():
    environ = {"HTTPS_PROXY": "http://proxy", "SSL_CERT_FILE": "/certs", "HF_ENDPOINT": "http://hub", "HF_TOKEN": "s", "https_proxy": "http://low"}
    assert not {"HTTPS_PROXY", "SSL_CERT_FILE", "HF_ENDPOINT", "https_proxy"} & child_environment(environ).keys()
    assert child_environment(environ)["HF_HUB_OFFLINE"] == "1"
    kept = child_environment(environ, network=True)
    assert {"HTTPS_PROXY", "SSL_CERT_FILE", "HF_ENDPOINT", "https_proxy"} <= kept.keys()
    assert not {"HF_HUB_OFFLINE", "HF_TOKEN"} & kept.keys()

"""`statepath doctor` tells what a bucket can do, and whether its service keeps conditions."""

import json
import os
import subprocess
import sys
from uuid import uuid4

import pytest
from servers.services import s3_service


def doctor(path):
    return subprocess.run(
        [sys.executable, "-m", "statepath.cli", "doctor", path, "--json"],
        capture_output=True,
        text=True,
        env=os.environ,
        timeout=60,
    )


@pytest.mark.slow
def test_a_sound_service_is_told_with_its_capabilities(aws, moto):
    told = json.loads(doctor(s3_service("moto", moto).path(uuid4().hex)).stdout)
    assert told["ok"] is True
    assert told["conditions"] == "kept"
    assert told["capabilities"]["remote"] is True
    assert "first save" in told["store"]


@pytest.mark.slow
def test_a_missing_bucket_fails(aws, moto):
    done = doctor(s3_service("moto", moto).path("x").replace("states", "no-such-bucket"))
    assert done.returncode != 0
    assert "no-such-bucket" in done.stderr
    assert "create it" in done.stderr

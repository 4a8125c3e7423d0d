"""Example files for SLURM and Kubernetes: torchrun and train_net.py accept their commands."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from torch.distributed.run import get_args_parser

from hipie.cli.segment import _parser as segment_parser
from hipie.cli.train import parse_arguments, read_config

ROOT = Path(__file__).parents[1]
CONFIG = "configs/universal/hipie_r50_joint.yaml"


def check_command(arguments: list[str], endpoint: str) -> None:
    """Parse the arguments of torchrun, and those that it hands to train_net.py."""
    agent = get_args_parser().parse_args(arguments)
    assert (agent.nnodes, agent.nproc_per_node) == ("2", "gpu")
    assert (agent.rdzv_backend, agent.rdzv_endpoint) == ("c10d", endpoint)
    assert agent.training_script == "train_net.py"
    args = parse_arguments(agent.training_script_args)
    # Restarts continue from the last checkpoint; without --resume they are refused.
    assert agent.max_restarts > 0
    assert args.resume
    assert Path(args.config_file) == Path(CONFIG)
    assert read_config(args).OUTPUT_DIR == "/output/hipie_r50_joint"


@pytest.fixture
def commands(tmp_path):
    """Folder with SLURM's commands: `srun` prints its arguments."""
    for name, program in {
        "scontrol": '[ "$*" = "show hostnames gpu[3-4]" ] && printf "gpu3\\ngpu4\\n"',
        "srun": 'printf "%s\\n" "$@"',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{program}\n")
        (tmp_path / name).chmod(0o755)
    return tmp_path


def test_slurm_starts_an_agent_on_every_machine(commands):
    environment = {
        **os.environ,
        "PATH": f"{commands}:{os.environ['PATH']}",
        "SLURM_JOB_NODELIST": "gpu[3-4]",
        "SLURM_NNODES": "2",
        "SLURM_JOB_ID": "17",
    }
    done = subprocess.run(
        ["bash", "cluster/slurm.sh", CONFIG, "OUTPUT_DIR", "/output/hipie_r50_joint"],
        cwd=ROOT,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    srun_option, program, *arguments = done.stdout.splitlines()
    assert (srun_option, program) == ("--kill-on-bad-exit=1", "torchrun")
    check_command(arguments, "gpu3:29500")


def test_kubernetes_job_starts_an_agent_in_every_pod():
    service, job = yaml.safe_load_all((ROOT / "cluster/kubernetes.yaml").read_text())
    assert (service["kind"], job["kind"]) == ("Service", "Job")
    spec = job["spec"]
    assert spec["completions"] == spec["parallelism"] == 2
    (container,) = spec["template"]["spec"]["containers"]
    assert container["command"] == ["torchrun"]
    # The name of the first pod in the domain of the service.
    assert spec["completionMode"] == "Indexed"
    assert spec["template"]["spec"]["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    port = service["spec"]["ports"][0]["port"]
    host = f"{job['metadata']['name']}-0.{service['metadata']['name']}"
    check_command(container["args"], f"{host}:{port}")
    volumes = {volume["name"] for volume in spec["template"]["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes


def test_ray_runs_a_command_that_exists():
    """The command of the comment is one of `hipie segment`, and the YAML names what it starts."""
    text = (ROOT / "cluster/ray.yaml").read_text()
    comment = " ".join(line.removeprefix("#").strip(" \\") for line in text.splitlines()[:12])
    command = re.search(r"ray exec cluster/ray\.yaml '(.+?)'", comment)[1]
    args = segment_parser().parse_args(shlex.split(command)[2:])
    assert (args.engine, args.address, args.workers) == ("ray", "auto", 32)
    # The head has no GPU, so that actors have to ask for one.
    assert args.gpus_per_worker == 1
    config = yaml.safe_load(text)
    types = config["available_node_types"]
    assert types[config["head_node_type"]]["resources"] == {"CPU": 0}
    worker = types["worker"]
    assert args.workers == worker["resources"]["GPU"] * worker["max_workers"]
    for role in ("head", "worker"):
        assert any("ray start" in line for line in config[f"{role}_start_ray_commands"])

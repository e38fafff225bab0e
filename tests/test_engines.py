"""What facemill tells Beam where the user says nothing, and what it refuses."""

from __future__ import annotations

import http.server
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from facemill.models.errors import ConfigError, OutputError
from facemill.pipeline.config import load_config
from facemill.pipeline.engines import (
    beam_name,
    check_detaching,
    check_reachable,
    check_runner,
    complete_arguments,
    runner_key,
)
from facemill.pipeline.errors import brief
from facemill.pipeline.run import RunRequest, run
from facemill.transforms.ops.storage import Folder


def options_of(arguments: list[str]) -> dict[str, str]:
    return dict(argument.removeprefix("--").split("=", 1) for argument in arguments)


@pytest.fixture
def flink_rest(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a server that answers as Flink's REST interface does."""
    overview = json.dumps(request.param).encode()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/overview" else 404)
            self.end_headers()
            self.wfile.write(overview)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("localhost", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"localhost:{server.server_port}"
        server.shutdown()
        thread.join()


def start(folder: Path, runner: str, arguments: list[str]) -> None:
    (folder / "in").mkdir()
    (folder / "in" / "a.jpg").write_bytes(b"no picture")
    request = RunRequest([str(folder / "in")], Folder(str(folder / "out")), load_config(), runner=runner)
    run(replace(request, beam_arguments=arguments), out=io.StringIO(), err=io.StringIO())


@pytest.mark.parametrize("name", ["FlinkRunner", "flinkrunner", "Flink", "flink"])
def test_a_runner_is_known_under_its_usual_names(name: str) -> None:
    assert runner_key(name) == "flink"
    assert beam_name(name) == "FlinkRunner"


def test_other_runners_are_beams_own_matter() -> None:
    assert beam_name("my.package.MyRunner") == "my.package.MyRunner"
    assert complete_arguments("my.package.MyRunner", ["--x=1"], num_workers=4) == ["--x=1"]


def test_embedded_flink_uses_the_cores_of_this_machine() -> None:
    options = options_of(complete_arguments("FlinkRunner", [], num_workers=3))
    assert options["flink_master"] == "[local]"
    assert (options["parallelism"], options["sdk_worker_parallelism"]) == ("3", "6")
    assert options["environment_type"] == "PROCESS"


def test_the_worker_command_is_the_installed_one() -> None:
    options = options_of(complete_arguments("SparkRunner", [], num_workers=1))
    command = Path(json.loads(options["environment_config"])["command"])
    assert command.name == "facemill-worker"
    assert command.parent == Path(sys.executable).parent
    assert os.access(command, os.X_OK)


def test_spark_on_this_machine_tries_a_task_again() -> None:
    options = options_of(complete_arguments("SparkRunner", [], num_workers=5))
    assert (options["spark_master_url"], options["sdk_worker_parallelism"]) == ("local[5,4]", "5")


def test_spark_elsewhere_gets_processes_as_its_machines_have_cores() -> None:
    options = options_of(complete_arguments("SparkRunner", ["--spark_master_url=yarn"], num_workers=5))
    assert options["sdk_worker_parallelism"] == "0"


@pytest.mark.parametrize(
    "flink_rest", [{"taskmanagers": 3, "slots-total": 10, "flink-version": "1.20.1"}], indirect=True
)
def test_a_flink_cluster_tells_its_slots_and_version(flink_rest: str) -> None:
    options = options_of(complete_arguments("FlinkRunner", [f"--flink_master={flink_rest}"], num_workers=2))
    assert options["parallelism"] == "10"
    assert options["sdk_worker_parallelism"] == "8"
    assert options["flink_version"] == "1.20"


@pytest.mark.parametrize(
    "flink_rest", [{"taskmanagers": 2, "slots-total": 4, "flink-version": "1.19.0"}], indirect=True
)
def test_more_slots_than_a_cluster_has_are_refused(flink_rest: str) -> None:
    master = f"--flink_master={flink_rest}"
    with pytest.raises(ConfigError, match=r"--parallelism=5: the Flink cluster at .* has 4 slots"):
        complete_arguments("FlinkRunner", [master, "--parallelism=5"], num_workers=1)
    options = options_of(complete_arguments("FlinkRunner", [master, "--parallelism=3"], num_workers=1))
    assert (options["parallelism"], options["sdk_worker_parallelism"]) == ("3", "4")


@pytest.mark.parametrize("flink_rest", [{"taskmanagers": 0, "slots-total": 0, "flink-version": "2.0.0"}], indirect=True)
def test_a_flink_cluster_that_starts_machines_on_demand_gets_the_users_number(flink_rest: str) -> None:
    options = options_of(complete_arguments("FlinkRunner", [f"--flink_master=http://{flink_rest}"], num_workers=7))
    assert (options["parallelism"], options["sdk_worker_parallelism"]) == ("7", "0")


@pytest.mark.parametrize("flink_rest", [["something", "else"]], indirect=True)
def test_what_is_no_flink_cluster_is_refused(flink_rest: str) -> None:
    with pytest.raises(ConfigError, match="no Flink cluster answers at http://localhost"):
        complete_arguments("FlinkRunner", [f"--flink_master={flink_rest}"], num_workers=1)


def test_a_flink_cluster_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no Flink cluster answers at http://localhost:1: .*refused"):
        complete_arguments("FlinkRunner", ["--flink_master=localhost:1"], num_workers=1)


def test_the_command_line_wins_over_the_file_and_the_file_over_the_preset(tmp_path: Path) -> None:
    file = tmp_path / "beam.yaml"
    file.write_text("parallelism: 7\nsdk_worker_parallelism: 5\nexperiments: [a, b]\nsave_main_session: true\n")
    arguments = complete_arguments("FlinkRunner", ["--parallelism=9"], num_workers=3, options_file=str(file))
    assert [argument for argument in arguments if "parallelism" in argument] == [
        "--parallelism=9",
        "--sdk_worker_parallelism=5",
    ]
    assert {"--experiments=a", "--experiments=b", "--save_main_session"} <= set(arguments)


def test_a_mapping_in_the_file_goes_to_beam_as_json(tmp_path: Path) -> None:
    file = tmp_path / "beam.yaml"
    file.write_text("environment_type: PROCESS\nenvironment_config: {command: /w, env: {A: b}}\n")
    options = options_of(
        complete_arguments("PortableRunner", ["--job_endpoint=h:1"], num_workers=1, options_file=str(file))
    )
    assert json.loads(options["environment_config"]) == {"command": "/w", "env": {"A": "b"}}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [("- a\n", "must be names with values"), ("a: [", "not valid YAML"), (None, "cannot read the Beam options")],
)
def test_a_file_that_is_no_options_is_refused(content: str | None, complaint: str, tmp_path: Path) -> None:
    file = tmp_path / "beam.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=complaint):
        complete_arguments("FlinkRunner", [], num_workers=1, options_file=str(file))


def test_a_container_takes_the_place_of_the_worker_command() -> None:
    options = options_of(complete_arguments("FlinkRunner", ["--environment_type=DOCKER"], num_workers=1))
    assert "environment_config" not in options
    assert options["environment_type"] == "DOCKER"


@pytest.mark.parametrize("option", ["--setup_file=./setup.py", "--requirements_file=r.txt", "--extra_package=p.tar.gz"])
def test_packages_that_the_worker_would_not_install_are_refused(option: str) -> None:
    with pytest.raises(ConfigError, match="facemill-worker, which the engine starts, installs nothing"):
        complete_arguments("FlinkRunner", [option], num_workers=1)
    complete_arguments("FlinkRunner", [option, "--environment_type=DOCKER"], num_workers=1)


def test_dataflow_names_what_it_lacks() -> None:
    with pytest.raises(ConfigError, match="also needs --region, --temp_location"):
        complete_arguments("DataflowRunner", ["--project=p"], num_workers=1)


@pytest.mark.parametrize("place", ["--temp_location=gs://b/t", "--staging_location=gs://b/s"])
def test_dataflow_needs_to_be_told_where_facemill_comes_from(place: str) -> None:
    given = ["--project=p", "--region=r", place]
    with pytest.raises(ConfigError, match="Dataflow's machines lack facemill"):
        complete_arguments("DataflowRunner", given, num_workers=1)
    complete_arguments("DataflowRunner", [*given, "--setup_file=./setup.py"], num_workers=1)


def test_dataflow_chooses_its_threads_itself() -> None:
    given = ["--project=p", "--region=r", "--temp_location=gs://b/t", "--sdk_container_image=i"]
    assert "number_of_worker_harness_threads" not in " ".join(
        complete_arguments("DataflowRunner", given, num_workers=9)
    )


def test_a_job_server_that_is_there_knows_its_own_cluster() -> None:
    options = options_of(complete_arguments("FlinkRunner", ["--job_endpoint=h:1"], num_workers=2))
    assert options.keys() == {"job_endpoint", "environment_type", "environment_config", "job_name"}


def test_a_job_that_ends_with_this_process_cannot_be_left() -> None:
    for runner in ("FlinkRunner", "SparkRunner", "FnApiRunner"):
        with pytest.raises(ConfigError, match="--detach: a job on"):
            check_detaching(runner, ["--parallelism=2"])
    check_detaching("DataflowRunner", [])
    check_detaching("FlinkRunner", ["--job_endpoint=h:1"])


def test_a_switch_is_turned_off_as_beam_has_it(tmp_path: Path) -> None:
    file = tmp_path / "beam.yaml"
    file.write_text("use_public_ips: false\nsave_main_session: true\n")
    given = ["--project=p", "--region=r", "--temp_location=gs://b/t", "--sdk_container_image=i"]
    arguments = complete_arguments("DataflowRunner", given, num_workers=1, options_file=str(file))
    assert {"--no_use_public_ips", "--save_main_session"} <= set(arguments)
    assert not {"--no_save_main_session", "--use_public_ips"} & set(arguments)


def test_a_folder_of_this_machine_is_refused_for_dataflow(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Dataflow's machines cannot reach"):
        check_reachable("DataflowRunner", [], [Folder("memory://there"), Folder(str(tmp_path))])
    assert check_reachable("DataflowRunner", [], [Folder("memory://there")]) == []


def test_a_folder_of_this_machine_is_remarked_for_a_cluster(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    assert check_reachable("FlinkRunner", ["--flink_master=[local]"], [folder]) == []
    for arguments in (["--flink_master=host:8081"], ["--flink_master", "https://host:8081"]):
        (warning,) = check_reachable("FlinkRunner", arguments, [folder])
        assert str(tmp_path) in warning and "every machine" in warning
    assert check_reachable("SparkRunner", ["--spark_master_url=local[2,4]"], [folder]) == []
    assert len(check_reachable("SparkRunner", ["--spark_master_url=spark://h:1"], [folder])) == 1
    assert len(check_reachable("PortableRunner", ["--job_endpoint=h:1"], [folder])) == 1
    assert check_reachable("PortableRunner", ["--job_endpoint=localhost:1"], [folder]) == []


def test_a_runner_that_loses_outputs_is_refused() -> None:
    with pytest.raises(ConfigError, match="DaskRunner loses outputs"):
        check_runner("DaskRunner")


def test_every_preset_holds_options_that_beam_knows() -> None:
    from apache_beam.options.pipeline_options import PipelineOptions

    known = set(PipelineOptions([]).get_all_options()) | {"no_save_main_session"}
    presets = sorted((Path(__file__).parent.parent / "configs" / "runners").glob("*.yaml"))
    assert [preset.stem for preset in presets] == ["dataflow", "flink", "portable", "spark"]
    for preset in presets:
        assert set(yaml.safe_load(preset.read_text())) <= known, preset


def test_an_option_of_facemill_in_the_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "beam.yaml"
    file.write_text("parallelism: 3\nrunner: SparkRunner\n")
    with pytest.raises(ConfigError, match="name runner, which is facemill's own"):
        complete_arguments("FlinkRunner", [], num_workers=1, options_file=str(file))


def test_a_second_runner_is_refused() -> None:
    with pytest.raises(ConfigError, match="--runner is given twice"):
        complete_arguments("FlinkRunner", ["--runner=DaskRunner"], num_workers=1)


def test_a_port_of_the_job_server_that_is_taken_is_refused(tmp_path: Path) -> None:
    (tmp_path / "any.jar").write_bytes(b"")
    with socket.create_server(("localhost", 0)) as other:
        port = other.getsockname()[1]
        arguments = [f"--flink_job_server_jar={tmp_path / 'any.jar'}", f"--job_port={port}"]
        with pytest.raises(ConfigError, match=f"--job_port={port}: something else listens there"):
            start(tmp_path, "FlinkRunner", [*arguments, "--job_server_java_launcher=true"])


def test_a_job_service_must_be_named() -> None:
    with pytest.raises(ConfigError, match="also needs --job_endpoint"):
        complete_arguments("PortableRunner", [], num_workers=1)


def test_a_jar_that_is_not_there_or_of_another_runner_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--flink_job_server_jar: there is no file /nope/x\.jar"):
        complete_arguments("FlinkRunner", ["--flink_job_server_jar=/nope/x.jar"], num_workers=1)
    with pytest.raises(ConfigError, match="is of another runner; this one takes --spark_job_server_jar"):
        complete_arguments("SparkRunner", ["--flink_job_server_jar=/nope/x.jar"], num_workers=1)


def test_a_spark_master_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no Spark master answers at spark://localhost:1: .*refused"):
        complete_arguments("SparkRunner", ["--spark_master_url=spark://localhost:1"], num_workers=1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            'java.lang.X: {\n\tstatus = StatusCode.UNAVAILABLE\n\tdetails = "no one is there"\n>',
            "RuntimeError: no one is there",
        ),
        ("the context is gone\njava.base/java.lang.Thread.run(Thread.java:840)", "RuntimeError: the context is gone"),
        (
            "Pipeline J-1_a failed in state FAILED: org.x.grpc.StatusRuntimeException: "
            "org.x.grpc.StatusRuntimeException: CANCELLED: client cancelled",
            "a worker process died: StatusRuntimeException: CANCELLED: client cancelled",
        ),
        (
            "org.apache.spark.SparkException: Job aborted\n\tat java.base/java.util.A.b(A.java:1)\n"
            "Caused by: java.io.IOException: the disk is gone\n\t... 3 more\n\nDriver stacktrace:",
            "IOException: the disk is gone",
        ),
        ("Traceback (most recent call last):\n  File x\nKeyError: 'a'", "RuntimeError: KeyError: 'a'"),
        ("", "RuntimeError"),
    ],
)
def test_what_engines_raise_comes_down_to_one_line(text: str, said: str) -> None:
    assert brief(RuntimeError(text)) == said


def test_options_for_a_runner_need_a_runner(tmp_path: Path) -> None:
    request = RunRequest([str(tmp_path)], Folder(str(tmp_path / "out")), load_config(), detach=True)
    with pytest.raises(ConfigError, match="--detach and --beam-options go with --runner"):
        run(request, out=io.StringIO(), err=io.StringIO())


@pytest.mark.parametrize("option", ["--job_port=many", "--streaming"])
def test_what_beam_would_not_take_is_refused_before_anything_is_written(option: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=option.partition("=")[0]):
        start(tmp_path, "FnApiRunner", [option])
    assert not (tmp_path / "out").exists()


def test_a_job_server_that_cannot_start_says_where_its_log_is(tmp_path: Path) -> None:
    jar = tmp_path / "broken.jar"
    jar.write_bytes(b"not a jar")
    arguments = [f"--flink_job_server_jar={jar}", "--job_server_java_launcher=false"]
    with pytest.raises(OutputError, match=r"the job server ended at once with 1; its log is .*\.log") as caught:
        start(tmp_path, "FlinkRunner", arguments)
    Path(str(caught.value).rsplit(" ", 1)[-1]).unlink()


def test_without_java_that_is_said(tmp_path: Path) -> None:
    jar = tmp_path / "any.jar"
    jar.write_bytes(b"")
    arguments = [f"--spark_job_server_jar={jar}", "--job_server_java_launcher=no-such-java"]
    with pytest.raises(ConfigError, match="needs Java: there is no program called no-such-java"):
        start(tmp_path, "SparkRunner", arguments)


@pytest.mark.parametrize("jar", ["directory", "text"])
def test_what_is_no_jar_is_told(jar: str, tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "text").write_text("no jar")
    complaint = "there is no file" if jar == "directory" else "the job server ended at once"
    if jar == "text" and shutil.which("java") is None:
        pytest.skip("needs Java")
    with pytest.raises((ConfigError, OutputError), match=complaint):
        start(tmp_path, "FlinkRunner", [f"--flink_job_server_jar={tmp_path / jar}"])


def test_jobs_can_be_left_to_a_service_that_the_file_names(tmp_path: Path) -> None:
    file = tmp_path / "beam.yaml"
    file.write_text("job_endpoint: localhost:1\n")
    arguments = complete_arguments("FlinkRunner", [], num_workers=1, options_file=str(file))
    check_detaching("FlinkRunner", arguments)


def test_a_worker_without_its_engine_ends_with_a_line() -> None:
    command = [sys.executable, "-m", "facemill.pipeline.harness", "--id=1", "--provision_endpoint=localhost:1"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert re.search(r"^facemill-worker: \w+: .*refused$", ended.stderr, re.MULTILINE)
    assert "Traceback" not in ended.stderr

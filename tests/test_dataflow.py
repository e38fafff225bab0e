"""All that comes before Dataflow's machines: the job, what is staged for it, the worker image and the Flex Template.

The service itself cannot be had here. Beam's DataflowRunner submits to a fake of Google's APIs on the loopback, and
what was staged there is carried out by Beam's worker program in environments of their own.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.coders import Coder
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.pipeline_context import PipelineContext
from apache_beam.runners.portability.stager import Stager
from cost import Machine, estimate, measured_rate
from cost import main as estimate_main
from fake_google import BUCKET, DATAFLOW_ENDPOINT, FakeGoogle, serve_google
from pictures import archive, read_crops, read_table, write_tar

from facemill.pipeline.cli import main
from facemill.pipeline.commands.arguments import EXIT_USAGE
from facemill.pipeline.config import load_config
from facemill.pipeline.flex_template import launch, to_arguments
from facemill.pipeline.graph import process_units
from facemill.pipeline.job import Job
from facemill.pipeline.plan import append_units, read_plan
from facemill.pipeline.presets import preset_names
from facemill.pipeline.run import RunRequest, run
from facemill.pipeline.schedule import ReadPlan, pending_rows
from facemill.transforms.elements import ElementCoder
from facemill.transforms.ops.storage import Folder
from facemill.transforms.ops.units import Unit

ROOT = Path(__file__).resolve().parents[1]
METADATA = json.loads((ROOT / "configs" / "flex_template.json").read_text(encoding="utf-8"))
PARAMETERS = {parameter["name"]: parameter for parameter in METADATA["parameters"]}
PACKAGED = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")
FOLDERS = ("configs", "models", "pipeline", "transforms")
IMAGE = "europe-west4-docker.pkg.dev/archive/images/facemill:0.1.0"
CHAIN = ("Read", "Decode", "Detect", "Landmarks", "Judge", "Align", "Write")
# https://cloud.google.com/dataflow/quotas: the request for a job, and a job's graph.
MAX_REQUEST_BYTES, MAX_GRAPH_BYTES = 20_000_000, 10_000_000


def has_extra() -> bool:
    try:
        return all(importlib.util.find_spec(name) for name in ("google.cloud.dataflow", "gcsfs"))
    except ModuleNotFoundError:
        return False


needs_extra = pytest.mark.skipif(not has_extra(), reason='needs the extra: pip install "facemill[dataflow]"')


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive") / "in"
    files = archive(6)
    for number in range(2):
        write_tar(folder / f"{number}.tar", {name: files[name] for name in sorted(files)[number::2]})
    return folder


@pytest.fixture(scope="module")
def expected(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("expected") / "out"
    request = RunRequest(inputs=[str(shards)], output=Folder(str(output)), config=load_config())
    assert run(request, out=io.StringIO(), err=io.StringIO()).is_complete
    assert len(read_table(output, "images")) == 9
    assert len(read_crops(output)) == 6
    return output


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the packages are made of, and of the tests, so that nothing is written into the real one."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in PACKAGED:
        shutil.copy(ROOT / name, copy)
    for name in (*FOLDERS, "tests", "benchmarks"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


@pytest.fixture
def google(shards: Path) -> Iterator[FakeGoogle]:
    with serve_google() as google:
        google.put_folder(shards, "in")
        yield google
    assert google.unknown == []


def plain_environment() -> dict[str, str]:
    """This process's variables without those that lead Python to the checkout."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}


# The job


@dataclass
class Submission:
    """What Google was asked for and given."""

    job: dict[str, Any]
    staged: dict[str, bytes]

    @property
    def pool(self) -> dict[str, Any]:
        (pool,) = self.job["environment"]["workerPools"]
        return dict(pool)

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.job["environment"]["sdkPipelineOptions"]["options"])

    @property
    def pipeline(self) -> beam_runner_api_pb2.Pipeline:
        return beam_runner_api_pb2.Pipeline.FromString(self.staged["pipeline.pb"])


def run_command(*options: str) -> list[str]:
    command = [sys.executable, "-m", "facemill.pipeline.cli", "run", "--input", f"gs://{BUCKET}/in"]
    command += ["--output", f"gs://{BUCKET}/out", "--runner", "DataflowRunner", "--project=archive"]
    command += ["--region=europe-west4", f"--temp_location=gs://{BUCKET}/temp"]
    return [*command, f"--dataflow_endpoint={DATAFLOW_ENDPOINT}", *options]


def submit(google: FakeGoogle, folder: Path, *options: str) -> Submission:
    done = subprocess.run(
        run_command("--detach", *options),
        cwd=folder,
        env={**os.environ, **google.environment(folder)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return taken_from(google, google.jobs[-1])


def taken_from(google: FakeGoogle, job: dict[str, Any]) -> Submission:
    url = job["environment"]["sdkPipelineOptions"]["options"]["pipelineUrl"]
    place = url.removeprefix(f"gs://{BUCKET}/").removesuffix("pipeline.pb")
    staged = {name[len(place) :]: data for name, data in google.objects.items() if name.startswith(place)}
    return Submission(job, staged)


@needs_extra
def test_the_job_and_all_that_is_staged_for_it(google: FakeGoogle, checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("gcsfs>=2024.6\n", encoding="utf-8")
    submission = submit(
        google,
        tmp_path,
        f"--setup_file={checkout}/setup.py",
        f"--requirements_file={tmp_path}/requirements.txt",
        "--requirements_cache=skip",
        "--job_name=faces",
        "--machine_type=n2d-standard-4",
        "--disk_size_gb=30",
        "--num_workers=3",
        "--max_num_workers=40",
        "--no_use_public_ips",
        "--subnetwork=regions/europe-west4/subnetworks/workers",
        "--service_account_email=workers@archive.iam.gserviceaccount.com",
        "--flexrs_goal=COST_OPTIMIZED",
    )
    job, pool = submission.job, submission.pool
    assert job["name"] == "faces"
    assert job["type"] == 1  # batch
    assert job["environment"]["version"] == {"job_type": "FNAPI_BATCH", "major": "8"}
    assert job["environment"]["serviceAccountEmail"] == "workers@archive.iam.gserviceaccount.com"
    assert job["environment"]["flexResourceSchedulingGoal"] == 2
    # Beam adds what Runner v2 needs, and a process for each core, by itself.
    assert {"use_runner_v2", "use_multiple_sdk_containers"} <= set(job["environment"]["experiments"])
    assert (pool["kind"], pool["machineType"], pool["diskSizeGb"], pool["numWorkers"]) == (
        "harness",
        "n2d-standard-4",
        30,
        3,
    )
    assert pool["autoscalingSettings"] == {"maxNumWorkers": 40}
    assert pool["ipConfiguration"] == 2  # private
    assert pool["subnetwork"] == "regions/europe-west4/subnetworks/workers"
    # The threads of a whole machine: 1 would leave all its cores but one idle. Dataflow's own choice is one per core.
    assert "numThreadsPerWorker" not in pool
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    image = f"gcr.io/cloud-dataflow/v1beta3/beam_python{python}_sdk:{beam.__version__}"
    assert pool["workerHarnessContainerImage"] == image
    assert [
        (each["containerImage"], each["useSingleCorePerContainer"]) for each in pool["sdkHarnessContainerImages"]
    ] == [(image, True)]
    assert_staged_whole(submission)
    assert {"workflow.tar.gz", "requirements.txt", "pipeline.pb"} <= submission.staged.keys()
    assert submission.staged["requirements.txt"] == b"gcsfs>=2024.6\n"
    assert_fusible(submission.pipeline)
    assert len(json.dumps(job)) < MAX_REQUEST_BYTES / 100
    assert files_of(submission.staged["workflow.tar.gz"]) == files_of(build_sdist(checkout, tmp_path).read_bytes())


def assert_staged_whole(submission: Submission) -> None:
    """What the job says is staged lies there, byte by byte, and nothing else does."""
    (environment,) = submission.pipeline.components.environments.values()
    assert environment.urn == "beam:env:docker:v1"
    names = set()
    for dependency in environment.dependencies:
        url = beam_runner_api_pb2.ArtifactUrlPayload.FromString(dependency.type_payload)
        role = beam_runner_api_pb2.ArtifactStagingToRolePayload.FromString(dependency.role_payload)
        assert url.url == submission.options["pipelineUrl"].replace("pipeline.pb", role.staged_name)
        assert url.sha256 == hashlib.sha256(submission.staged[role.staged_name]).hexdigest()
        names.add(role.staged_name)
    assert submission.staged.keys() == {*names, "pipeline.pb"}
    assert {package["name"] for package in submission.pool["packages"]} == names
    assert submission.options["pipelineProtoHash"] == hashlib.sha256(submission.staged["pipeline.pb"]).hexdigest()


def assert_fusible(pipeline: beam_runner_api_pb2.Pipeline) -> None:
    """From read to write each step is a plain ParDo on what the one before it made, so that a runner can fuse them."""
    transforms, pcollections = pipeline.components.transforms, pipeline.components.pcollections
    leaves = [each for each in transforms.values() if not each.subtransforms and each.spec.urn]
    uses = Counter(pcollection for each in leaves for pcollection in each.inputs.values())
    (step,) = (each for each in leaves if each.unique_name.startswith("Write/"))
    chain = []
    while not step.unique_name.startswith("Read/"):
        chain.append(step)
        (made,) = step.inputs.values()
        assert uses[made] == 1, f"{made} goes to several steps"
        assert element_coder(pipeline, pcollections[made].coder_id) is ElementCoder
        (step,) = (each for each in leaves if made in each.outputs.values())
    chain.append(step)
    assert [each.unique_name.split("/")[0] for each in reversed(chain)] == list(CHAIN)
    assert len({each.environment_id for each in chain}) == 1
    for each in chain:
        assert each.spec.urn == "beam:transform:pardo:v1", each.unique_name
        payload = beam_runner_api_pb2.ParDoPayload.FromString(each.spec.payload)
        assert not payload.side_inputs, each.unique_name
        assert not payload.state_specs, each.unique_name
        assert not payload.timer_family_specs, each.unique_name
        assert not payload.restriction_coder_id, each.unique_name
        assert len(each.outputs) == 1, each.unique_name
    groupings = [each.unique_name for each in leaves if "group_by_key" in each.spec.urn]
    assert len(groupings) == 1  # the one that spreads the units


def element_coder(pipeline: beam_runner_api_pb2.Pipeline, coder_id: str) -> type[Coder]:
    return type(PipelineContext(pipeline.components).coders.get_by_id(coder_id))


def test_the_graph_can_be_fused(shards: Path, tmp_path: Path) -> None:
    pipeline = beam.Pipeline(options=PipelineOptions([]))
    output = Folder(str(tmp_path))
    job = Job(load_config(), {"in": Folder(str(shards))}, output)
    process_units(pipeline | "Plan" >> ReadPlan(output, []), job=job, quarantined={})
    assert_fusible(pipeline.to_runner_api())


@pytest.mark.parametrize(
    "change",
    [
        lambda elements: elements | "Shuffle" >> beam.Reshuffle(),
        lambda elements: elements | beam.Map(lambda element, side: element, beam.pvalue.AsSingleton(elements)),
        lambda elements: (elements, elements | "Other" >> beam.Map(lambda element: element)) | beam.Flatten(),
    ],
    ids=["reshuffle", "side input", "flatten"],
)
def test_a_graph_that_cannot_be_fused_is_noticed(change: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from facemill.pipeline import graph

    class Changed(graph.JudgeFaces):  # type: ignore[misc, valid-type]
        def expand(self, elements: Any) -> Any:
            return change(super().expand(elements))

    monkeypatch.setattr(graph, "JudgeFaces", Changed)
    pipeline = beam.Pipeline(options=PipelineOptions([]))
    output = Folder(str(tmp_path))
    process_units(pipeline | "Plan" >> ReadPlan(output, []), job=Job(load_config(), {}, output), quarantined={})
    with pytest.raises((AssertionError, ValueError)):
        assert_fusible(pipeline.to_runner_api())


def test_a_hundred_thousand_units_stay_far_below_the_size_limits(tmp_path: Path) -> None:
    output = Folder(str(tmp_path))
    names = tuple(f"photographs/person_{number:04d}/{number:08d}.jpg" for number in range(20))
    units = [Unit(f"unit-{number:06d}", "files", names, (20_000,) * 20, 400_000) for number in range(100_000)]
    append_units(output, read_plan(output), units)
    pipeline = beam.Pipeline(options=PipelineOptions([]))
    references = pending_rows(output, frozenset(unit.name for unit in units))
    assert sum(len(reference.rows) for reference in references) == len(units)
    job = Job(load_config(), {"photographs": Folder("gs://archive/photographs")}, output)
    process_units(pipeline | "Plan" >> ReadPlan(output, references), job=job, quarantined={})
    assert len(pipeline.to_runner_api().SerializeToString()) < MAX_GRAPH_BYTES / 5


@needs_extra
def test_an_image_needs_nothing_staged(google: FakeGoogle, tmp_path: Path) -> None:
    submission = submit(google, tmp_path, f"--sdk_container_image={IMAGE}", "--sdk_location=container")
    assert [each["containerImage"] for each in submission.pool["sdkHarnessContainerImages"]] == [IMAGE]
    assert_staged_whole(submission)
    assert not {name for name in submission.staged if name.endswith((".tar.gz", ".whl", "requirements.txt"))}


@needs_extra
def test_an_extra_package_is_staged_as_it_is(google: FakeGoogle, checkout: Path, tmp_path: Path) -> None:
    package = build_sdist(checkout, tmp_path)
    submission = submit(google, tmp_path, f"--extra_package={package}")
    assert_staged_whole(submission)
    assert submission.staged[package.name] == package.read_bytes()
    assert submission.staged["extra_packages.txt"].decode().split() == [package.name]


@needs_extra
def test_a_run_waits_for_the_job_and_gives_the_account(google: FakeGoogle, expected: Path, tmp_path: Path) -> None:
    google.state = "JOB_STATE_RUNNING"
    failures: list[BaseException] = []

    def carry_out() -> None:
        try:
            run_staged(Path(sys.executable), google, taken_from(google, google.jobs[-1]), tmp_path)
            google.state = "JOB_STATE_DONE"
        except BaseException as error:
            failures.append(error)
            google.state = "JOB_STATE_FAILED"

    thread = threading.Thread(target=carry_out)
    google.on_job = lambda job: thread.start()
    environment = {**os.environ, **google.environment(tmp_path)}
    command = run_command(f"--sdk_container_image={IMAGE}")
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=180)
    thread.join()
    assert not failures, failures
    assert done.returncode == 0, done.stderr
    assert re.search(r"^images +9 ", done.stdout, re.MULTILINE), done.stdout
    assert_same(google, expected, tmp_path)


@needs_extra
def test_a_job_that_fails_ends_the_run_with_its_reason(google: FakeGoogle, tmp_path: Path) -> None:
    google.state = "JOB_STATE_FAILED"
    google.messages.append(
        {
            "id": "1",
            "time": "2026-01-01T00:00:00Z",
            "messageText": "The job failed because a work item has failed 4 times.",
            "messageImportance": "JOB_MESSAGE_ERROR",
        }
    )
    environment = {**os.environ, **google.environment(tmp_path)}
    command = run_command(f"--sdk_container_image={IMAGE}")
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "a work item has failed 4 times" in done.stderr
    assert "Traceback" not in done.stderr


# The package


@pytest.fixture(scope="module")
def sdist(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package that Beam builds for `--setup_file`."""
    return Path(Stager._build_setup_package(str(checkout / "setup.py"), str(tmp_path_factory.mktemp("sdist"))))


def build_sdist(checkout: Path, folder: Path) -> Path:
    """The package as `python -m build --sdist` makes it."""
    command = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(folder / "dist")]
    subprocess.run([*command, str(checkout)], check=True, capture_output=True)
    (package,) = (folder / "dist").glob("*.tar.gz")
    return package


def files_of(package: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(package)) as tar:
        return {
            member.name.partition("/")[2]: file.read()
            for member in tar
            if (file := tar.extractfile(member)) is not None
        }


@pytest.mark.skipif(importlib.util.find_spec("setuptools") is None, reason="needs setuptools, of the extra dataflow")
def test_the_package_holds_what_a_worker_needs_and_no_more(sdist: Path, checkout: Path) -> None:
    files = files_of(sdist.read_bytes())
    needed = [*PACKAGED, *(str(path.relative_to(checkout)) for path in checkout.glob("configs/**/*.yaml"))]
    needed += [str(path.relative_to(checkout)) for name in FOLDERS for path in (checkout / name).rglob("*.py")]
    assert len(needed) > 50
    assert not set(needed) - files.keys()
    tops = {name.split("/")[0] for name in files}
    assert tops == {*PACKAGED, *FOLDERS, "PKG-INFO", "setup.cfg", "facemill.egg-info"}
    assert {Path(name).suffix for name in files if name.split("/")[0] in FOLDERS} == {
        ".py",
        ".yaml",
        ".jinja",
        ".css",
        ".js",
    }
    assert max(map(len, files.values())) < 50_000


def make_environment(folder: Path, *requirements: str, cwd: Path, **variables: str) -> Path:
    """A fresh virtual environment with these installed; returns its Python."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, env=plain_environment())
    python = folder / "bin" / "python"
    command = [str(python), "-m", "pip", "install", "-q", "--no-compile", *requirements]
    done = subprocess.run(command, cwd=cwd, env=plain_environment() | variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return python


def run_staged(python: Path, google: FakeGoogle, submission: Submission, folder: Path) -> None:
    """Carry a staged job out with workers of that Python, from a folder that is not the checkout."""
    work, elsewhere = folder / "worker", folder / "elsewhere"
    for name, data in submission.staged.items():
        (work / "staged").mkdir(parents=True, exist_ok=True)
        (work / "staged" / name).write_bytes(data)
    elsewhere.mkdir()
    (work / "job.json").write_text(json.dumps(submission.job), encoding="utf-8")
    command = [str(python), str(ROOT / "tests" / "staged_job.py"), str(work / "job.json"), str(work)]
    environment = plain_environment() | google.environment(folder)
    done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def assert_installed(python: Path, folder: Path) -> None:
    """facemill comes from the environment's own packages."""
    code = "import facemill.pipeline.graph as m, sys; print(m.__file__.startswith(sys.prefix), m.__file__)"
    done = subprocess.run(
        [str(python), "-c", code], cwd=folder, env=plain_environment(), capture_output=True, text=True
    )
    assert done.stdout.startswith("True"), (done.stdout, done.stderr)


def assert_same(google: FakeGoogle, expected: Path, folder: Path) -> None:
    output = google.get_folder("out", folder / "got")
    assert read_table(output, "images") == read_table(expected, "images")
    assert read_table(output, "faces") == read_table(expected, "faces")
    assert read_crops(output) == read_crops(expected)


@needs_extra
@pytest.mark.slow
def test_workers_run_the_job_from_the_staged_package(
    google: FakeGoogle, checkout: Path, expected: Path, tmp_path: Path
) -> None:
    (tmp_path / "requirements.txt").write_text("gcsfs>=2024.6\n", encoding="utf-8")
    options = ["--requirements_file=requirements.txt", "--requirements_cache=skip"]
    submission = submit(google, tmp_path, f"--setup_file={checkout}/setup.py", *options)
    staged = tmp_path / "staged"
    staged.mkdir()
    for name in ("requirements.txt", "workflow.tar.gz"):
        (staged / name).write_bytes(submission.staged[name])
    beam_of_the_image = f"apache-beam=={beam.__version__}"
    python = make_environment(
        tmp_path / "venv", beam_of_the_image, "-r", "requirements.txt", "workflow.tar.gz", cwd=staged
    )
    assert_installed(python, staged)
    run_staged(python, google, submission, tmp_path)
    assert_same(google, expected, tmp_path)


# The image and the template


@dataclass
class Dockerfile:
    """Instructions with their arguments filled in, in order."""

    instructions: list[tuple[str, str]]

    def all(self, name: str) -> list[str]:
        return [text for instruction, text in self.instructions if instruction == name]

    @property
    def variables(self) -> dict[str, str]:
        return dict(re.findall(r"(\w+)=(\S+)", " ".join([*self.all("ARG"), *self.all("ENV")])))

    @property
    def pip_command(self) -> list[str]:
        (command,) = (text for text in self.all("RUN") if text.startswith("pip install"))
        return re.findall(r"[^\s\"]+", command.removeprefix("pip install").replace("--no-cache-dir", ""))


def read_dockerfile() -> Dockerfile:
    text = re.sub(r"^#.*\n|\\\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    arguments = dict(re.findall(r"^ARG (\w+)=(\S+)$", text, re.MULTILINE))
    filled = re.sub(r"\$\{(\w+)\}", lambda found: arguments[found[1]], text)
    return Dockerfile([(name, rest.strip()) for name, rest in re.findall(r"^([A-Z]+) (.*)$", filled, re.MULTILINE)])


def test_the_image_is_of_this_beam_and_of_a_python_that_facemill_takes() -> None:
    dockerfile = read_dockerfile()
    python = dockerfile.variables["PYTHON"]
    assert dockerfile.all("FROM") == [
        f"apache/beam_python{python}_sdk:{beam.__version__} AS beam",
        f"{dockerfile.variables['LAUNCHER']} AS launcher",
        f"python:{python}-slim",
    ]
    assert f"python{python.replace('.', '')}-" in dockerfile.variables["LAUNCHER"]
    assert f"apache-beam[gcp]=={beam.__version__}" in dockerfile.pip_command
    found = re.search(r'python_requires=">=3\.(\d+),<3\.(\d+)"', (ROOT / "setup.py").read_text(encoding="utf-8"))
    assert found is not None
    assert int(found[1]) <= int(python.split(".")[1]) < int(found[2])
    assert not [text for text in dockerfile.all("RUN") if "apt" in text or "gcc" in text]


def test_the_image_gets_its_files_and_starts_the_right_programs() -> None:
    dockerfile = read_dockerfile()
    copies = [text.split() for text in dockerfile.all("COPY") if not text.startswith("--from")]
    sources = {source for *files, _ in copies for source in files}
    assert sources == {*PACKAGED, *FOLDERS, "pipeline/flex_template.py"}
    assert all((ROOT / source).exists() for source in sources)
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").split() if line[0] == "!"}
    assert kept == {*PACKAGED, *FOLDERS}
    assert dockerfile.all("ENTRYPOINT") == ['["/opt/apache/beam/boot"]']
    assert ["pipeline/flex_template.py", "/template/"] in copies
    assert dockerfile.variables["FLEX_TEMPLATE_PYTHON_PY_FILE"] == "/template/flex_template.py"


@needs_extra
@pytest.mark.slow
def test_the_template_launches_from_the_image_and_its_workers_run_the_job(
    google: FakeGoogle, checkout: Path, expected: Path, tmp_path: Path
) -> None:
    """The image's pip command in a fresh environment that has no compiler, which then is launcher and worker."""
    dockerfile = read_dockerfile()
    source = tmp_path / "source"
    source.mkdir()
    for name in PACKAGED:
        shutil.copy(checkout / name, source)
    for name in FOLDERS:
        shutil.copytree(checkout / name, source / name)
    python = make_environment(tmp_path / "image", *dockerfile.pip_command, cwd=source, CC="false", CXX="false")
    subprocess.run([str(python), "-m", "pip", "check"], check=True, capture_output=True)
    template = tmp_path / "template"
    template.mkdir()
    shutil.copy(source / "pipeline" / "flex_template.py", template)
    shutil.rmtree(source)
    assert_installed(python, template)

    parameters = {
        "input": f"gs://{BUCKET}/in/0.tar 'gs://{BUCKET}/in/1.tar'",
        "output": f"gs://{BUCKET}/out",
        "sdk_container_image": IMAGE,
        "config": "",
        "retry_failed": "false",
        # What the launcher adds:
        "runner": "DataflowRunner",
        "project": "archive",
        "region": "europe-west4",
        "job_name": "faces",
        "temp_location": f"gs://{BUCKET}/temp",
        "staging_location": f"gs://{BUCKET}/staging",
        "template_location": f"gs://{BUCKET}/staging/template_launches/1/job_object",
        "max_num_workers": "20",
        # That there is another Google than the real one:
        "dataflow_endpoint": DATAFLOW_ENDPOINT,
    }
    command = [
        str(python),
        str(template / "flex_template.py"),
        *(f"--{name}={value}" for name, value in parameters.items()),
    ]
    environment = plain_environment() | google.environment(tmp_path)
    done = subprocess.run(command, cwd=template, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert google.jobs == []  # the launcher submits what it finds at the template_location
    submission = taken_from(google, json.loads(google.objects["staging/template_launches/1/job_object"]))
    assert [each["containerImage"] for each in submission.pool["sdkHarnessContainerImages"]] == [IMAGE]
    assert submission.pool["autoscalingSettings"] == {"maxNumWorkers": 20}
    run_staged(python, google, submission, tmp_path)
    assert_same(google, expected, tmp_path)


GOOD = {
    "input": ["", "gs://bucket/shards/*.tar", "gs://a/1.tar s3://b/2.tar", "'gs://a/with space/' gs://b"],
    "output": ["gs://bucket/faces", "s3://bucket"],
    "sdk_container_image": [IMAGE, f"gcr.io/project/facemill@sha256:{'0' * 64}"],
    "config": ["", *preset_names()],
    "set": ["", "detect.min_face_size_px=40", "detect.min_face_size_px=40 judge.max_yaw_deg=30"],
    "faces": ["", "gs://bucket/faces.parquet"],
    "retry_failed": ["", "true", "false"],
    "disk_size_gb": ["", "30"],
}
BAD = {
    "input": ["photos", "/data/shards/*.tar", "file:/x", "gs:// x"],
    "output": ["", "out", "/data/out", "gs://", "gs://a b"],
    "sdk_container_image": ["", "facemill", "Europe-docker.pkg.dev/p/r/i:1", "gcr.io/p/i@sha256:12", "gcr.io/p/i:1 2"],
    "config": ["Recognition", "my preset", "../x.yaml"],
    "set": ["min_face_size_px=40", "detect.min_face_size_px", "detect=1"],
    "faces": ["faces.parquet", "gs://"],
    "retry_failed": ["yes", "True", "1"],
    "disk_size_gb": ["0", "-1", "30 GB", "thirty"],
}


def test_the_template_asks_for_what_the_command_line_takes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    of_facemill = set(re.findall(r"--([a-z][a-z-]+)", capsys.readouterr().out))
    of_beam = PipelineOptions([]).get_all_options().keys()
    assert len(PARAMETERS) == len(METADATA["parameters"]) == 8
    for name in PARAMETERS:
        assert name.replace("_", "-") in of_facemill or name in of_beam, name
    assert METADATA.keys() == {"name", "description", "parameters"}
    for parameter in PARAMETERS.values():
        assert parameter.keys() - {"defaultValue"} == {
            "name",
            "label",
            "helpText",
            "paramType",
            "isOptional",
            "regexes",
        }
        assert isinstance(parameter["isOptional"], bool)


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_parameter_is_required_where_the_run_needs_it(name: str) -> None:
    given = {name: values[-1] for name, values in GOOD.items()}
    del given[name]
    parameters = [f"--{other}={value}" for other, value in given.items()]
    if PARAMETERS[name]["isOptional"]:
        assert to_arguments(parameters)
    else:
        with pytest.raises(ValueError, match=f"{name} is missing"):
            to_arguments(parameters)
        assert launch(parameters) == EXIT_USAGE


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_regexes_of_a_parameter(name: str) -> None:
    patterns = PARAMETERS[name]["regexes"]
    assert patterns
    assert GOOD[name]
    assert BAD[name]
    for value in GOOD[name]:
        assert all(re.fullmatch(pattern, value) for pattern in patterns), value
    for value in BAD[name]:
        assert not all(re.fullmatch(pattern, value) for pattern in patterns), value


def test_the_defaults_are_those_of_the_command_line() -> None:
    required = [f"--{name}={GOOD[name][-1]}" for name in ("output", "sdk_container_image")]
    defaults = {name: each["defaultValue"] for name, each in PARAMETERS.items() if "defaultValue" in each}
    assert defaults == {"retry_failed": "false"}
    assert to_arguments([*required, *(f"--{name}={value}" for name, value in defaults.items())]) == to_arguments(
        required
    )


def test_the_parameters_become_a_run() -> None:
    assert to_arguments(
        [
            "--runner=DataflowRunner",
            "--project=archive",
            "--template_location=gs://b/job_object",
            "--input=gs://a/1.tar 'gs://a/the second.tar'",
            "--output=gs://b/out",
            "--sdk_container_image=gcr.io/p/facemill:1",
            "--config=recognition",
            "--set=detect.min_face_size_px=40 judge.max_yaw_deg=30",
            "--faces=",
            "--retry_failed=true",
            "--disk_size_gb=",
        ]
    ) == [
        "run",
        "--input=gs://a/1.tar",
        "--input=gs://a/the second.tar",
        "--output=gs://b/out",
        "--config=recognition",
        "--set=detect.min_face_size_px=40",
        "--set=judge.max_yaw_deg=30",
        "--retry-failed",
        "--runner=DataflowRunner",
        "--detach",
        "--sdk_container_image=gcr.io/p/facemill:1",
        "--project=archive",
        "--template_location=gs://b/job_object",
    ]


@pytest.mark.parametrize(("parameter", "message"), [("--retry_failed=yes", "true or false"), ("--input='a", "quotes")])
def test_a_wrong_parameter_is_refused(parameter: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert launch(["--output=gs://b/out", "--sdk_container_image=gcr.io/p/i:1", parameter]) == EXIT_USAGE
    assert message in capsys.readouterr().err


# The cost

MACHINE = Machine(vcpus=4, memory_gb=16, disk_gb=30, vcpu_hour=0.05, memory_gb_hour=0.005, disk_gb_hour=0.0001)
PRICES = ["--vcpu-hour=0.05", "--memory-gb-hour=0.005", "--disk-gb-hour=0.0001"]
SIZE = ["--vcpus=4", "--memory-gb=16", "--disk-gb=30"]


def test_a_machine_costs_the_sum_of_its_parts() -> None:
    assert MACHINE.per_hour == pytest.approx(0.20 + 0.08 + 0.003)


def test_the_estimate_is_that_of_a_calculation_by_hand() -> None:
    # 1,000,000 images / (10 a second x 0.5) = 200,000 s of a core, on 20 cores 10,000 s; and 360 s before.
    found = estimate(MACHINE, num_machines=5, num_images=1_000_000, images_per_s=10, utilisation=0.5, start_up_s=360)
    assert found.hours == pytest.approx(10_360 / 3600)
    assert found.cost == pytest.approx(5 * 10_360 / 3600 * 0.283)  # 4.072...
    assert found.per_million == pytest.approx(found.cost)


def test_more_machines_cost_no_more_but_their_start() -> None:
    few, many = (
        estimate(MACHINE, num_machines=n, num_images=4_000_000, images_per_s=20, utilisation=1, start_up_s=300)
        for n in (10, 100)
    )
    assert many.hours - 300 / 3600 == pytest.approx((few.hours - 300 / 3600) / 10)
    assert many.cost - few.cost == pytest.approx(90 * 300 / 3600 * 0.283)


def test_the_rate_of_a_run_is_read_from_its_markers(expected: Path, tmp_path: Path) -> None:
    markers = [json.loads(path.read_bytes()) for path in sorted((expected / "_units").glob("*.json"))]
    for marker, seconds in zip(markers, (2.0, 1.0), strict=True):  # 9 images in 3 s
        (tmp_path / "_units").mkdir(exist_ok=True)
        path = tmp_path / "_units" / f"{marker['unit']}.json"
        path.write_text(json.dumps(marker | {"seconds": seconds}), encoding="utf-8")
    assert measured_rate(Folder(str(tmp_path))) == pytest.approx(3.0)


def test_the_table_of_costs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    options = ["--images-per-s=10", *SIZE, *PRICES, "--machines", "5", "--utilisation=0.5", "--start-up-minutes=6"]
    assert estimate_main(options) == 0
    assert capsys.readouterr().out.endswith("| 5 | 2.88 | 4.07 | 4.072 |\n")
    assert estimate_main(["--output", str(tmp_path), *SIZE, *PRICES]) == 1
    assert "no committed unit" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", ["--utilisation=0", "--utilisation=1.1", "--vcpus=0", "--vcpu-hour=-1", "--images=x"])
def test_an_impossible_figure_is_refused(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        estimate_main(["--images-per-s=10", *SIZE, *PRICES, wrong])
    assert wrong.split("=")[0] in capsys.readouterr().err

# One image for the workers of Dataflow, Flink and Spark and for the launcher of the Flex Template.
#
#   docker build --tag IMAGE .
#
# BEAM is the version of apache-beam that submits the job; PYTHON its Python.
ARG PYTHON=3.11
ARG BEAM=2.77.0
ARG LAUNCHER=gcr.io/dataflow-templates-base/python311-template-launcher-base:20230622_RC00

FROM apache/beam_python${PYTHON}_sdk:${BEAM} AS beam
FROM ${LAUNCHER} AS launcher

# Has no compiler: everything comes as a wheel or is plain Python.
FROM python:${PYTHON}-slim
ARG BEAM

COPY --from=beam /opt/apache/beam /opt/apache/beam
COPY --from=launcher /opt/google/dataflow/python_template_launcher /opt/google/dataflow/python_template_launcher

WORKDIR /opt/facemill
COPY setup.py pyproject.toml MANIFEST.in README.md LICENSE ./
COPY configs configs
COPY models models
COPY pipeline pipeline
COPY transforms transforms
RUN pip install --no-cache-dir ".[gcs,s3]" "apache-beam[gcp]==${BEAM}"
RUN pip check
# Alone in its folder, as Python finds the neighbours of a program before the packages.
COPY pipeline/flex_template.py /template/

# Workers use the cores; facemill itself asks ONNX Runtime and OpenCV for one thread.
ENV OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
# Without it each worker would make a virtual environment of its own before it starts.
ENV RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT=1
ENV FLEX_TEMPLATE_PYTHON_PY_FILE=/template/flex_template.py

# Dataflow's documentation names no user but root. Elsewhere: docker run --user facemill.
RUN useradd --uid 10001 --create-home facemill
WORKDIR /home/facemill
ENTRYPOINT ["/opt/apache/beam/boot"]

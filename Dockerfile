# vqrf on the CPU, with the compiled core and PyTorch. Build: docker build -t vqrf . -- then
#   docker run --rm -v "$PWD:/data" vqrf train nerf_synthetic/lego --out runs/lego --preset quick
FROM python:3.11-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
RUN PIP_CONSTRAINT=constraints.txt pip wheel --no-deps --wheel-dir dist .

FROM python:3.11-slim-bookworm
COPY --from=build /source/dist /source/constraints.txt /wheels/
# PyTorch without CUDA is a fifth of the size, where the index has it; TORCH_INDEX may name such an index.
ARG TORCH_INDEX=""
RUN pip install --no-cache-dir ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -c /wheels/constraints.txt torch \
    && pip install --no-cache-dir -c /wheels/constraints.txt "$(ls /wheels/*.whl)[train,video,mesh]" \
    && python -c "import vqrf._native" \
    && rm -r /wheels \
    && useradd --create-home user
USER user
WORKDIR /data
ENTRYPOINT ["vqrf"]

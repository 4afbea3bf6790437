# The package as npm installs it, on a slim system, with nothing to build with and no CUDA: the runtime is inside the addon,
# the driver comes from the host. Needs the tarballs of `npm run release` in release/.
#   docker build -t millrace .
#   docker run --gpus all --ulimit memlock=-1 -v millrace-models:/models millrace generate owner/name "Once upon a time"
#   docker run --gpus all --ulimit memlock=-1 -v millrace-models:/models -p 8080:8080 millrace serve owner/name --host 0.0.0.0
ARG NODE=node:22-bookworm-slim

FROM ${NODE} AS install
WORKDIR /app
COPY release/*.tgz /tarballs/
RUN npm init --yes >/dev/null && npm install --omit=dev --no-audit --no-fund --cache /tmp/npm /tarballs/*.tgz

FROM ${NODE}
ENV NODE_ENV=production HF_HOME=/models MILLRACE_CACHE=/models/packed NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN groupadd --gid 10001 millrace && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /models millrace \
  && mkdir /models && chown millrace:millrace /models
COPY --from=install /app /app
USER 10001:10001
WORKDIR /models
VOLUME /models
ENTRYPOINT ["/app/node_modules/.bin/millrace"]
CMD ["doctor"]
# Of a server; one-off commands end before it is asked.
HEALTHCHECK --interval=30s --timeout=5s --start-period=10m \
  CMD ["node", "-e", "fetch('http://127.0.0.1:' + (process.env.PORT ?? 8080) + '/health').then((r) => process.exit(r.ok ? 0 : 1), () => process.exit(1))"]

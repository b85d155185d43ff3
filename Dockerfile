# Images of one program each: docker build --build-arg PROGRAM=daprd --build-arg PACKAGE=outrigger-sidecar -t REGISTRY/daprd:TAG .
# Programs and packages: daprd outrigger-sidecar, sentry outrigger-sentry, placement outrigger-placement,
# scheduler outrigger-scheduler, injector outrigger-injector, operator outrigger-operator. `cargo xtask images` makes all of them without an engine.
FROM rust:1.95-bookworm AS build
ARG PACKAGE=outrigger-sidecar
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --locked --release --package "$PACKAGE" && mkdir /out && \
    find target/release -maxdepth 1 -type f -executable -exec cp {} /out/ \;

FROM gcr.io/distroless/cc-debian12:nonroot
ARG PROGRAM=daprd
# No entrypoint: the injector and the chart name the program.
COPY --from=build /out/${PROGRAM} /${PROGRAM}
USER 65532:65532
WORKDIR /

# An image of one program with nothing beside it:
#   docker build --build-arg PROGRAM=daprd --build-arg PACKAGE=outrigger-sidecar -t REGISTRY/daprd:TAG .
# Programs and packages: daprd outrigger-sidecar, sentry outrigger-sentry, placement outrigger-placement,
# scheduler outrigger-scheduler, injector outrigger-injector, operator outrigger-operator.
# `cargo xtask images` makes images of the same files for all of them without an engine.
FROM docker.io/library/rust:1.95-bookworm AS build
ARG PROGRAM=daprd
ARG PACKAGE=outrigger-sidecar
WORKDIR /src
COPY . .
# With the C library inside, so the image needs none. A target is named so that build scripts and macros are built as ever;
# RUSTUP_TOOLCHAIN keeps rustup from fetching what rust-toolchain.toml lists for developers.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    export RUSTUP_TOOLCHAIN="$RUST_VERSION" RUSTFLAGS="-C target-feature=+crt-static" && \
    target="$(rustc --print host-tuple)" && \
    cargo build --locked --release --target "$target" --package "$PACKAGE" --bin "$PROGRAM" && \
    install -D "target/$target/release/$PROGRAM" "/image/$PROGRAM"
# The few files that programs expect: authorities, names of two users, the hosts file before DNS, a folder for temporary files.
RUN install -D -m 644 /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ca-certificates.crt && \
    printf '%s:/sbin/nologin\n' root:x:0:0:root:/ nonroot:x:65532:65532:nonroot:/ > /image/etc/passwd && \
    printf '%s\n' root:x:0: nonroot:x:65532: > /image/etc/group && \
    echo 'hosts: files dns' > /image/etc/nsswitch.conf && \
    install -d -m 1777 /image/tmp

FROM scratch
ARG PROGRAM=daprd
# No entrypoint: the injector and the chart name the program.
COPY --from=build /image/ /
ENV PATH=/ SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
LABEL org.opencontainers.image.title=$PROGRAM org.opencontainers.image.licenses=Apache-2.0
USER 65532:65532
WORKDIR /

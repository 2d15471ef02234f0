# The image of the agent and the webhook, from a clean clone:
#
#   docker build --tag kg:0.1.0 .
#   docker buildx build --platform linux/amd64,linux/arm64 --tag kg:0.1.0 .
#
# A platform other than the machine's is emulated, which is slow but takes no second way to build.
FROM rust:1.95-slim-bookworm AS build
RUN apt-get update && apt-get install --yes --no-install-recommends \
    binutils ca-certificates iptables nftables \
    dpkg-dev golang-1.19-go golang-github-containernetworking-plugins-dev \
    golang-github-mattn-go-shellwords-dev golang-github-networkplumbing-go-nft-dev
WORKDIR /src
COPY . .
RUN cargo build --profile image --locked --workspace --bin kg
# What is in the image, and no more than 30 MB of it.
RUN image/rootfs target/image/kg /rootfs 30000000

FROM scratch
COPY --from=build /rootfs /
ENTRYPOINT ["/opt/bin/kg"]

#!/bin/sh
# GpuJob's prefetch: pulls the job's image while the kubelet is still joining. It never holds up the boot and never fails it:
# it detaches itself at once, and whatever goes wrong only means that the kubelet pulls the image later, as it would have.
# POSIX sh. `prefetch.sh` detaches itself, `prefetch.sh pull` is the work.
IMAGE=@IMAGE@
ROOT=@ROOT@
SOCKET=$ROOT/run/containerd/containerd.sock

if [ "${1:-}" != pull ]; then
  log=$ROOT/var/log/gpujob-prefetch.log
  : >>"$log" 2>/dev/null || log=/dev/null
  # Out of the session of whoever started us: cloud-init ends, this stays.
  if command -v setsid >/dev/null 2>&1; then
    setsid sh "$0" pull </dev/null >>"$log" 2>&1 &
  else
    nohup sh "$0" pull </dev/null >>"$log" 2>&1 &
  fi
  exit 0
fi

say() {
  echo "gpujob prefetch: $1"
  { echo "gpujob prefetch: $1" >/dev/console; } 2>/dev/null
}

# On AL2023 nodeadm starts containerd after cloud-init's scripts, with the registries' settings already in place.
waited=0
until [ -S "$SOCKET" ]; do
  [ "$waited" -ge 600 ] && exit 0
  waited=$((waited + 1))
  sleep 1
done
began=$(date +%s)

# As the kubelet will unpack it: a snapshot of another snapshotter would be of no use to it.
snapshotter=$(sed -n 's/^ *snapshotter *= *["'\'']\([a-z]*\)["'\''].*/\1/p' "$ROOT/etc/containerd/config.toml" 2>/dev/null | head -n 1)
set -- -n k8s.io images pull
[ -n "$snapshotter" ] && set -- "$@" --snapshotter "$snapshotter"
[ -d "$ROOT/etc/containerd/certs.d" ] && set -- "$@" --hosts-dir "$ROOT/etc/containerd/certs.d"
# What the node's own role may pull.
case $IMAGE in
  *.dkr.ecr*.amazonaws.com*/*)
    registry=${IMAGE%%/*}
    region=${registry#*.dkr.ecr*.}
    region=${region%%.*}
    password=$(aws ecr get-login-password --region "$region") || exit 0
    set -- "$@" --user "AWS:$password"
    ;;
esac
# The kubelet's own first pulls go first.
if nice -n 10 ctr --address "$SOCKET" "$@" "$IMAGE" >/dev/null; then
  say "pulled $IMAGE in $(($(date +%s) - began)) s"
else
  say "could not pull $IMAGE: the kubelet will"
fi
exit 0

#!/bin/sh
# GpuJob's dead-man timer: powers this instance off, which terminates it, when nobody is left who would. That is when
#   its kubelet has not joined within JOIN_WITHIN seconds of its life,
#   the API server has not answered for SILENT_FOR seconds, or
#   it has lived for MAX_LIFETIME seconds.
# POSIX sh; no systemd needed. `dead-man.sh` detaches itself, `dead-man.sh watch` is the timer.
ENDPOINT=@ENDPOINT@
JOIN_WITHIN=@JOIN_WITHIN@
SILENT_FOR=@SILENT_FOR@
MAX_LIFETIME=@MAX_LIFETIME@
EVERY=@EVERY@
ROOT=@ROOT@
DIR=$ROOT/var/lib/gpujob
# Whoever may write here may end the instance anyway: lines such as SILENT_FOR=600, for each of the four numbers above.
OWN=$ROOT/etc/gpujob/dead-man

if [ "${1:-}" != watch ]; then
  log=$ROOT/var/log/gpujob-dead-man.log
  : >>"$log" 2>/dev/null || log=/dev/null
  # Out of the session of whoever started us: cloud-init ends, this stays.
  if command -v setsid >/dev/null 2>&1; then
    setsid sh "$0" watch </dev/null >>"$log" 2>&1 &
  else
    nohup sh "$0" watch </dev/null >>"$log" 2>&1 &
  fi
  exit 0
fi

# Seconds that do not jump when the clock is set.
now() {
  if read -r up _ 2>/dev/null </proc/uptime; then echo "${up%%.*}"; else date +%s; fi
}

# A certificate that the API server signed, or pods of a DaemonSet: either comes only after joining. An EKS kubelet has no
# client certificate (it signs in by its role) but always gets pods; a bare node may get no pods but has a certificate.
joined() {
  for sign in "$ROOT"/var/log/pods/* "$ROOT"/var/lib/kubelet/pki/kubelet-client-current.pem \
    "$ROOT"/var/lib/kubelet/pki/kubelet-server-current.pem; do
    [ -e "$sign" ] && return 0
  done
  return 1
}

# Any HTTP status is an answer. Where nothing can ask, MAX_LIFETIME alone holds.
answers() {
  if command -v curl >/dev/null 2>&1; then
    curl -sk --max-time 10 -o /dev/null "$ENDPOINT/livez"
  elif command -v bash >/dev/null 2>&1 && command -v timeout >/dev/null 2>&1; then
    place=${ENDPOINT#*://}
    place=${place%%/*}
    host=${place%:*}
    port=${place##*:}
    [ "$port" = "$place" ] && port=443
    timeout 10 bash -c 'exec 3<>"/dev/tcp/$0/$1"' "$host" "$port" 2>/dev/null
  fi
}

# The pool's own script runs after this timer has started, so its settings are looked for at every turn.
settings() {
  [ -r "$OWN" ] || return 0
  while IFS='=' read -r name value; do
    case $value in '' | *[!0-9]*) continue ;; esac
    case $name in
      JOIN_WITHIN) JOIN_WITHIN=$value ;;
      SILENT_FOR) SILENT_FOR=$value ;;
      MAX_LIFETIME) MAX_LIFETIME=$value ;;
      EVERY) EVERY=$value ;;
    esac
  done <"$OWN"
}

off() {
  echo "gpujob dead-man: powering off: $1"
  { echo "gpujob dead-man: powering off: $1" >/dev/console; } 2>/dev/null
  tries=$((tries + 1))
  # A shutdown can hang on a stuck unit: the third time without asking.
  if [ "$tries" -lt 3 ]; then shutdown -h now || poweroff -f; else poweroff -f || shutdown -h now; fi
}

lived=$(cat "$DIR/lived" 2>/dev/null)
case $lived in '' | *[!0-9]*) lived=0 ;; esac
last=$(now)
silent=0
tries=0
in=
while :; do
  settings
  pause=$((MAX_LIFETIME - lived))
  [ "$pause" -gt "$EVERY" ] && pause=$EVERY
  # While the pool's script may still be at work.
  [ "$lived" -lt 60 ] && [ "$pause" -gt 2 ] && pause=2
  [ "$pause" -lt 1 ] && pause=1
  sleep "$pause"
  this=$(now)
  step=$((this - last))
  last=$this
  # Kept, so that a reboot does not start a new life.
  lived=$((lived + step))
  { echo "$lived" >"$DIR/lived"; } 2>/dev/null
  [ -n "$in" ] || { joined && in=yes; }
  if answers; then silent=0; else silent=$((silent + step)); fi
  if [ "$lived" -ge "$MAX_LIFETIME" ]; then
    off "it has lived for $lived seconds"
  elif [ -z "$in" ] && [ "$lived" -ge "$JOIN_WITHIN" ]; then
    off "its kubelet has not joined within $lived seconds"
  elif [ "$silent" -ge "$SILENT_FOR" ]; then
    off "the API server has not answered for $silent seconds"
  fi
done

#!/bin/sh
# An ffmpeg that dies. FAULTS_FFMPEG says how, FAULTS_FFMPEG_REAL names the true one. Its version it tells all the same.
case " $* " in *" -version "*) exec "$FAULTS_FFMPEG_REAL" "$@" ;; esac
echo 1 >> "$FAULTS_FFMPEG_MARK"
output= before=
for one; do
  case "$before $one" in "-i "*) ;; *" file:"*) output=${one#file:} ;; esac
  before=$one
done
case "$FAULTS_FFMPEG" in
  kill) kill -KILL $$ ;;
  segv) kill -SEGV $$ ;;
  fail) echo "Conversion failed!" >&2; exit 1 ;;
  blocks:*) ulimit -f "${FAULTS_FFMPEG#blocks:}"; exec "$FAULTS_FFMPEG_REAL" "$@" ;;
  killed-at-end) "$FAULTS_FFMPEG_REAL" "$@"; kill -KILL $$ ;;
  short:*) "$FAULTS_FFMPEG_REAL" "$@" || exit; [ -z "$output" ] || truncate -s "${FAULTS_FFMPEG#short:}" "$output" ;;
esac

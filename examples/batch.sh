#!/usr/bin/env bash
# Every film of a folder with each voice beside it, in a loop to be changed to taste. `musetalk batch FILMS` does the same and keeps the
# models loaded. Run again, it makes only what is missing.
#
#   examples/batch.sh FILMS [flags of `musetalk dub`]      film.mp4 with film.fr.wav, film.de.wav, ... beside it
#
# Exits 8 where a film failed, else 75 where another run is at one, else 0.
set -uo pipefail
films=${1:?name the folder of films}
shift

made=0 failed='' busy=''
shopt -s nullglob
for film in "$films"/*.mp4 "$films"/*.mov "$films"/*.mkv; do
    voices=()
    for voice in "${film%.*}".*.wav; do
        language=${voice%.wav}
        language=${language##*.}
        if [ "$voice" = "${film%.*}.$language.wav" ]; then # film.fr.wav, not film.draft.fr.wav
            voices+=(--audio "$language=$voice")
        fi
    done
    if [ ${#voices[@]} -eq 0 ]; then # a result of ours, or a film without a voice
        continue
    fi

    musetalk dub "$film" "${voices[@]}" --skip-existing "$@"
    code=$?
    case $code in
        0) made=$((made + 1)) ;;
        75) busy+="  $film"$'\n' ;;
        130 | 143) exit "$code" ;; # stopped by a person: so is the loop
        *) failed+="  $film: exit code $code"$'\n' ;;
    esac
done

printf '%d films are done\n' "$made" >&2
if [ -n "$busy" ]; then
    printf 'another run is at:\n%s' "$busy" >&2
fi
if [ -n "$failed" ]; then
    printf 'failed:\n%s' "$failed" >&2
    exit 8
fi
if [ -n "$busy" ]; then
    exit 75
fi

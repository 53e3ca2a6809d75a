#!/bin/sh
# Makes a handful of pictures with the bundled model and one contact sheet of them. usage: demo.sh RONDO FOLDER
set -eu
rondo=$1 folder=$2
mkdir -p "$folder"
pictures=""
draw() {  # SEED PROMPT
  file="$folder/$(printf '%s' "$2" | tr -c 'a-z0-9' '-').png"
  "$rondo" generate --quiet --prompt "$2" --seed "$1" --output "$file"
  pictures="$pictures $file"
}
draw 2 "grinning face"
draw 6 "red heart"
draw 2 "cat face"
draw 2 "face with tears of joy"
draw 3 "blue heart"
draw 5 "red apple"
draw 5 "cactus"
draw 5 "umbrella"
draw 7 "bell"
draw 9 "strawberry"
draw 5 "half moon"
draw 9 "bus"
# File names hold no spaces: the list may be split.
"$rondo" contact-sheet --columns 6 --zoom 2 --output "$folder/contact-sheet.png" $pictures
echo "Look at $folder/contact-sheet.png"

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
draw 4 "cat face"
draw 13 "face with tears of joy"
draw 3 "blue heart"
draw 8 "flag, germany"
draw 15 "moon"
draw 16 "no entry"
# File names hold no spaces: the list may be split.
"$rondo" contact-sheet --columns 4 --zoom 3 --output "$folder/contact-sheet.png" $pictures
echo "Look at $folder/contact-sheet.png"

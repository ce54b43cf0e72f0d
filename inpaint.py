"""Fill the hole of one picture: `uv run inpaint.py image=me.jpg mask=hole.png`."""

from diffusion_lab.commands.inpaint import main

if __name__ == "__main__":
    main()

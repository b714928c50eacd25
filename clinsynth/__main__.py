from clinsynth.cli import main

main()

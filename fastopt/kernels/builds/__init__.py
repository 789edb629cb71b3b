"""One compiled copy of every span per instruction set and dtype; the loader in ``fastopt.kernels`` picks one."""

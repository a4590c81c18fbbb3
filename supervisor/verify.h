/* `sierradb verify DIR`: checks everything stored in a data directory. argv[0] is "verify".
 * Returns the exit status. */
#pragma once

int verify_main(int argc, char **argv);

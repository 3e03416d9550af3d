// Ends with 0 where the processor took the table of tiles that was meant. Does not compile where processor or compiler know no tiles. See installer/compiler.py.
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
struct Table { unsigned char palette = 0, row = 0, none[14] = {0}; unsigned short bytes[16] = {0}; unsigned char rows[16] = {0}; };
int main() {
    if (syscall(SYS_arch_prctl, 0x1023, 18)) return 0;  // ARCH_REQ_XCOMP_PERM: a system that lends no tiles is asked by llama.cpp too
    alignas(64) Table wanted = {};
    wanted.palette = 1;
    for (int tile = 0; tile < 8; ++tile) { wanted.bytes[tile] = 64; wanted.rows[tile] = 16; }
    _tile_loadconfig(&wanted);
    alignas(64) unsigned char found[64];
    asm volatile("sttilecfg %0" : "=m"(found));
    return found[16 + 2 * 7] == 64 && found[48 + 7] == 16 ? 0 : 1;
}

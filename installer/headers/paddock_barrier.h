// Where llama.cpp's threads wait for each other, 157 to 757 times for a token of the models that were measured. See paddock_loops.h, which reads this.
//
// GCC's OpenMP (libgomp) asks the system at every barrier to wake whoever sleeps there, though between two operations of a step nearly always nobody does: a call of the
// system each time, for the thread that came last and is waited for next. Here only a thread that sleeps is woken. The barrier and the beginning of a parallel part are
// seen by the code that they are linked with and by nobody else; threads are libgomp's own, and so is whatever else they do.
#pragma once
#if defined(_OPENMP) && defined(__GNUC__) && !defined(__clang__) && defined(__linux__) && !defined(PADDOCK_NO_BARRIER)
#include <features.h>
#if defined(__GLIBC_PREREQ)
#if __GLIBC_PREREQ(2, 34)  // since then every program has dlsym
#define PADDOCK_BARRIER
#include <atomic>
#include <climits>
#include <dlfcn.h>
#include <linux/futex.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace paddock __attribute__((visibility("hidden"))) {

// Looks at the others before a thread sleeps, as many as libgomp's: fewer made everything slower on a busy machine (docs/lab-notes.md), but there must be a core for each
#ifndef PADDOCK_SPINS
#define PADDOCK_SPINS 300000
#endif
constexpr int SPINS = PADDOCK_SPINS, CROWDED_SPINS = 100;

struct Team {  // the threads of a parallel part
    alignas(64) std::atomic<int> arrived{0};
    alignas(64) std::atomic<int> passed{0};  // barriers that all have reached
    std::atomic<int> asleep{0}, threads{1};
    alignas(64) std::atomic<int> taken{0};  // parts of what all compute since the last barrier
};

struct Part {
    void (*run)(void *);
    void *data;
    Team *team;
};

inline std::atomic<int> &threads_at_work() {
    static std::atomic<int> count{0};
    return count;
}

inline int cores() {
    static const int count = omp_get_num_procs();  // asked once, before a thread is bound to some of them
    return count;
}

struct Member {  // a thread of a team
    Team *team = nullptr;
    int divided = -1;  // how many barriers had been passed when it last asked for parts
};

inline Member &own() {
    static thread_local Member member;
    return member;
}

// Counts the parts that are taken, of the first thing behind a barrier that is divided into parts; nothing for the second, which some begin before others have ended the first,
// and for threads that are no team. All threads must ask.
static inline std::atomic<int> *parts_taken() {
    Member &me = own();
    const int passed = me.team ? me.team->passed.load(std::memory_order_relaxed) : me.divided;
    if (passed == me.divided) return nullptr;
    me.divided = passed;
    return &me.team->taken;
}

static inline long futex(std::atomic<int> *at, int what, int value) { return syscall(SYS_futex, (int *)at, what, value, nullptr, nullptr, 0); }

static inline void wait_for(Team *team) {
    const int before = team->passed.load(std::memory_order_relaxed);
    if (team->arrived.fetch_add(1, std::memory_order_acq_rel) == team->threads.load(std::memory_order_relaxed) - 1) {
        team->arrived.store(0, std::memory_order_relaxed);
        team->taken.store(0, std::memory_order_relaxed);
        team->passed.store(before + 1);
        if (team->asleep.load()) futex(&team->passed, FUTEX_WAKE_PRIVATE, INT_MAX);
        return;
    }
    const int spins = threads_at_work().load(std::memory_order_relaxed) > cores() ? CROWDED_SPINS : SPINS;
    for (int spin = 0; spin < spins; ++spin) {
        if (team->passed.load(std::memory_order_acquire) != before) return;
        __builtin_ia32_pause();
    }
    team->asleep.fetch_add(1);
    while (team->passed.load() == before) futex(&team->passed, FUTEX_WAIT_PRIVATE, before);
    team->asleep.fetch_sub(1);
}

// Somebody may have said how libgomp's threads are to wait.
static inline bool is_told() { return getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT"); }

// By the order in which the linker finds omp_get_num_threads too: both must be of one library.
static inline void *libgomps(const char *name) {
    void *found = dlsym(RTLD_DEFAULT, name);
    if (!found) fprintf(stderr, "%s of libgomp is not there; llama.cpp computes with one thread.\n", name);
    return found;
}

static inline void run_part(void *at) {
    const Part *part = (const Part *)at;
    const Member before = own();
    own() = Member{part->team, -1};
    part->team->threads.store(omp_get_num_threads(), std::memory_order_relaxed);  // fewer than asked for, perhaps; all say the same
    threads_at_work().fetch_add(1, std::memory_order_relaxed);
    part->run(part->data);
    threads_at_work().fetch_sub(1, std::memory_order_relaxed);
    own() = before;
}

}  // namespace paddock

extern "C" {
inline __attribute__((used, visibility("hidden"))) void GOMP_barrier(void) {
    static void (*const barrier)(void) = (void (*)(void))paddock::libgomps("GOMP_barrier");
    if (paddock::Team *team = paddock::own().team)
        paddock::wait_for(team);
    else if (barrier)
        barrier();
}
inline __attribute__((used, visibility("hidden"))) void GOMP_parallel(void (*run)(void *), void *data, unsigned threads, unsigned flags) {
    static void (*const parallel)(void (*)(void *), void *, unsigned, unsigned) =
        (void (*)(void (*)(void *), void *, unsigned, unsigned))paddock::libgomps("GOMP_parallel");
    static const bool told = paddock::is_told();
    if (!parallel) return run(data);  // by one thread, which is a team too
    if (told) return parallel(run, data, threads, flags);
    paddock::cores();
    paddock::Team team;
    paddock::Part part{run, data, &team};
    parallel(paddock::run_part, &part, threads, flags);
}
}
#endif
#endif
#endif

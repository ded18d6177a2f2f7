/*
 * Makes a process believe that its CPU lacks instruction sets: LD_PRELOAD=cpuid.so HIDE_CPUID="7.0.ecx.11 7.1.eax.4" ...
 *
 * If the CPU can do it, Linux lets a process ask that CPUID raise SIGSEGV (arch_prctl ARCH_SET_CPUID). The handler
 * executes the instruction itself and clears the bits that HIDE_CPUID names: leaf.subleaf.register.bit, where leaf and
 * subleaf are hexadecimal. It does not affect code that was loaded before, such as the C library's choice of memcpy.
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define ARCH_SET_CPUID 0x1012
#define MOST 64

static struct { unsigned leaf, subleaf, reg, bit; } hidden[MOST];
static int count;

static void answer(int number, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    const unsigned char *instruction = (const unsigned char *)registers[REG_RIP];
    if (info->si_code != SI_KERNEL || instruction[0] != 0x0f || instruction[1] != 0xa2) {
        signal(number, SIG_DFL); /* a fault of its own: the instruction is executed again, and fails again */
        return;
    }
    unsigned leaf = registers[REG_RAX], subleaf = registers[REG_RCX], found[4];
    syscall(SYS_arch_prctl, ARCH_SET_CPUID, 1);
    __cpuid_count(leaf, subleaf, found[0], found[1], found[2], found[3]);
    syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0);
    for (int i = 0; i < count; i++)
        if (hidden[i].leaf == leaf && (leaf != 7 || hidden[i].subleaf == subleaf))
            found[hidden[i].reg] &= ~(1u << hidden[i].bit);
    registers[REG_RAX] = found[0];
    registers[REG_RBX] = found[1];
    registers[REG_RCX] = found[2];
    registers[REG_RDX] = found[3];
    registers[REG_RIP] += 2;
}

__attribute__((constructor)) static void start(void) {
    const char *names = "abcd", *list = getenv("HIDE_CPUID");
    for (char *word = strtok(strdup(list ? list : ""), " "); word; word = strtok(NULL, " ")) {
        char name;
        if (count == MOST || sscanf(word, "%x.%x.e%cx.%u", &hidden[count].leaf, &hidden[count].subleaf, &name,
                                    &hidden[count].bit) != 4 || !strchr(names, name)) {
            fprintf(stderr, "cpuid.so: HIDE_CPUID has %s\n", word);
            _exit(2);
        }
        hidden[count++].reg = strchr(names, name) - names;
    }
    struct sigaction action = {.sa_sigaction = answer, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
    sigaction(SIGSEGV, &action, NULL);
    if (syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0)) {
        perror("cpuid.so: this CPU or kernel cannot intercept CPUID");
        _exit(2);
    }
}

/* The smallest guest that fills its disk: a boot sector that writes a pattern to the disk it was booted from, from
 * FIRST_SECTOR on, so that the boot sector itself survives and the guest can be started again.
 *
 * The pattern: every sector is its own number (32 bits, little endian), 128 times over. So each byte that the
 * guest wrote can be verified on the host, and a lost, stale or misplaced block shows.
 *
 * It says on the first serial port: "START", a dot for each MiB written, then "DONE", or "ERR" and the BIOS
 * status in hex, each on a line. Then it halts.
 *
 * Parameter: the number of MiB to write, a 32-bit little-endian word at byte 4 of the sector; the scripts patch it.
 *
 * Build: as --32 demo-guest.S -o guest.o; ld -m elf_i386 -Ttext 0x7c00 --oformat binary -e start guest.o -o guest.bin
 */
        .code16
        .set FIRST_SECTOR, 2048
        .set CHUNK_SECTORS, 128         /* 64 KiB, as much as one segment and one BIOS request hold */
        .set CHUNKS_PER_MIB, 16
        .set CHUNK_SEGMENT, 0x1000      /* the chunk's buffer: linear 0x10000..0x1ffff */
        .set COM1, 0x3f8
        .set LINE_STATUS, COM1 + 5

        .global start
start:  jmp setup
        .org 4
mib:    .long 48

setup:  xorw %ax, %ax
        movw %ax, %ds
        movw %ax, %ss
        movw $0x7c00, %sp
        ljmp $0, $main

main:   cld
        movb %dl, drive                 /* the BIOS says which disk it booted from */
        movw $start_text, %si
        call print

each_mib:
        decl mib
        js done
        movw $CHUNKS_PER_MIB, %bp
each_chunk:
        call fill
        movb drive, %dl
        movw $packet, %si
        movb $0x43, %ah                 /* INT 13h extended write, AL = 0: without verify */
        xorb %al, %al
        pushw %bp
        int $0x13
        popw %bp
        jc failed
        addl $CHUNK_SECTORS, lba
        decw %bp
        jnz each_chunk
        movb $'.', %al
        call put
        jmp each_mib

done:   movw $done_text, %si
        call print
halt:   cli
        hlt
        jmp halt

failed: pushw %ax
        movw $error_text, %si
        call print
        popw %ax
        pushw %ax
        shrb $4, %ah
        call put_hex
        popw %ax
        call put_hex
        movw $line_end, %si
        call print
        jmp halt

/* Fills the chunk's buffer for the sectors from lba on. */
fill:   movw $CHUNK_SEGMENT, %ax
        movw %ax, %es
        xorw %di, %di
        movl lba, %eax
        movw $CHUNK_SECTORS, %dx
1:      movw $128, %cx
        rep stosl
        incl %eax
        decw %dx
        jnz 1b
        ret

/* Prints the low four bits of AH as a hex digit. */
put_hex:
        movb %ah, %al
        andb $15, %al
        addb $'0', %al
        cmpb $'9', %al
        jbe put
        addb $('a' - '9' - 1), %al
/* Prints AL, as soon as the port takes it. */
put:    pushw %ax
        movw $LINE_STATUS, %dx
1:      inb %dx, %al
        testb $0x20, %al
        jz 1b
        popw %ax
        movw $COM1, %dx
        outb %al, %dx
        ret

/* Prints the text at SI, which ends with a zero byte. */
print:  lodsb
        testb %al, %al
        jz 1f
        call put
        jmp print
1:      ret

start_text:
        .asciz "START\r\n"
done_text:
        .asciz "\r\nDONE\r\n"
error_text:
        .asciz "\r\nERR "
line_end:
        .asciz "\r\n"
drive:  .byte 0

        .balign 4
/* The disk address packet of the BIOS. */
packet: .byte 16, 0
        .word CHUNK_SECTORS
        .word 0, CHUNK_SEGMENT
lba:    .long FIRST_SECTOR, 0

        .org 510
        .word 0xaa55
